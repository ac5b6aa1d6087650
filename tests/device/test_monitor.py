"""``bnfold monitor`` and ``bnfold drift --merge`` where there is no torch, on both formats."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnfold
from bnfold.drift import State, Stream
from bnfold.errors import BnfoldError

from .conftest import Array, Case, Cli, Result

pytestmark = pytest.mark.device


@pytest.fixture(scope="session")
def monitored(folder: Path, target: str) -> Path:
    return folder / f"mnist_mobilenet.monitor.{target}"


@pytest.fixture(scope="session")
def home(folder: Path) -> Array:
    """64 digits as they were in training."""
    with np.load(folder / "digits.npz") as archive:
        return np.array(archive["frames"])


@pytest.fixture(scope="session")
def bright(home: Array) -> Array:
    """The same before another camera."""
    return np.clip(home.astype(int) + 90, 0, 255).astype(np.uint8)


def lines(result: Result) -> list[dict[str, Any]]:
    """Standard output: one JSON object a line."""
    return [json.loads(line) for line in result.out.splitlines()]


def test_a_stream_like_training_gives_no_alarm(
    monitored: Path, folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(monitored.parent)
    result = cli("monitor", monitored.name, "--frames", folder / "digits.npz")
    assert (result.status, result.out) == (0, "")
    assert result.err.splitlines()[-1] == "no drift"
    assert all(len(line) <= 80 for line in result.err.splitlines())
    document = cli("monitor", monitored, "--frames", folder / "digits.npz", "--format", "json").document
    assert (document["passed"], document["drifted"], document["judged"]) == (True, False, True)
    assert (document["frames"], document["tier"], document["findings"]) == (64, 1, [])


def test_a_change_is_told_in_one_line(
    monitored: Path, home: Array, bright: Array, tmp_path: Path, cli: Cli
) -> None:
    np.save(tmp_path / "frames.npy", np.concatenate([home, bright]))
    result = cli("monitor", monitored, "--frames", tmp_path / "frames.npy")
    assert result.status == 1
    (alarm,) = lines(result)
    assert (alarm["code"], alarm["severity"]) == ("BNF-A017", "error")
    assert 64 <= alarm["frame"] < 100
    assert alarm["name"] == f"frames.npy[{alarm['frame']}]"
    assert result.err.splitlines()[-1].startswith("drift at ")
    result = cli("monitor", monitored, "--frames", tmp_path / "frames.npy", "--format", "json")
    assert result.status == 1
    assert result.document["findings"] == [alarm]
    assert [json.loads(line) for line in result.err.splitlines()] == [alarm]


def test_a_baseline_that_can_tell_nothing_is_refused(
    monitored: Path, home: Array, bright: Array, tmp_path: Path, cli: Cli
) -> None:
    """Against one frame, or none that is finite, nothing would ever be drift."""
    np.save(tmp_path / "bright.npy", bright)
    np.save(tmp_path / "one.npy", home[:1])
    np.save(tmp_path / "broken.npy", np.full((30, 1, 28, 28), np.nan, dtype=np.float32))
    for name, number in (("one.npy", "1 finite frame,"), ("broken.npy", "0 finite frames,")):
        result = cli("monitor", monitored, "--frames", "bright.npy", "--baseline", name)
        assert (result.status, result.out) == (2, "")
        assert result.err.startswith(f"error[BNF-U143]: the baseline has {number}")


def test_a_baseline_of_a_still_camera_counts_its_scenes(
    monitored: Path, home: Array, tmp_path: Path, cli: Cli
) -> None:
    """Every frame 8 times over: 10 scenes are refused, and of 40 each counts once."""
    noise = np.random.default_rng(0).integers(-2, 3, (len(home), 8, *home.shape[1:]))
    slow = np.clip(home[:, np.newaxis] + noise, 0, 255).astype(np.uint8).reshape(-1, *home.shape[1:])
    np.save(tmp_path / "ten.npy", slow[:80])
    np.save(tmp_path / "forty.npy", slow[:320])
    np.save(tmp_path / "frames.npy", slow)
    result = cli("monitor", monitored, "--frames", "frames.npy", "--baseline", "ten.npy")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("error[BNF-U143]: the baseline's 80 frames are worth 10 independent ones")
    arguments = ("--frames", "frames.npy", "--baseline", "forty.npy", "--format", "json")
    document = cli("monitor", monitored, *arguments).document
    assert (document["passed"], document["tier"], document["judged"]) == (True, 1, True)
    assert (document["counts"]["frames"], document["counts"]["kept"]) == (512, 64)


def test_restarts_change_nothing(
    monitored: Path, home: Array, bright: Array, tmp_path: Path, cli: Cli
) -> None:
    stream = np.concatenate([home[:50], bright[:50]])
    np.save(tmp_path / "all.npy", stream)
    whole = cli("monitor", monitored, "--frames", tmp_path / "all.npy", "--state", "whole")
    told = []
    for start in range(0, 100, 30):
        np.save(tmp_path / "all.npy", stream[start : start + 30])
        told += lines(cli("monitor", monitored, "--frames", tmp_path / "all.npy", "--state", "parts"))
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert [(a["frame"], a["message"]) for a in told] == [(a["frame"], a["message"]) for a in lines(whole)]
    assert len(told) == 1
    # the alarm stands until it is reset, and is not told again
    np.save(tmp_path / "all.npy", home)
    later = cli("monitor", monitored, "--frames", tmp_path / "all.npy", "--state", "parts")
    assert (later.status, later.out) == (1, "")
    assert "found in an earlier run" in " ".join(later.err.split())
    reset = cli("monitor", monitored, "--frames", tmp_path / "all.npy", "--state", "parts", "--reset")
    assert (reset.status, reset.out) == (0, "")
    assert State.load(tmp_path / "parts").counts.frames == 100 + 64 + 64


def test_every_kth_frame(monitored: Path, folder: Path, cli: Cli) -> None:
    arguments = ("monitor", monitored, "--frames", folder / "digits.npz", "--every", 10, "--format", "json")
    counts = cli(*arguments).document["counts"]
    assert (counts["frames"], counts["kept"]) == (64, 7)


def test_what_is_not_finite_is_told_at_once_between_the_kth_frames_too(
    monitored: Path, home: Array, tmp_path: Path, cli: Cli
) -> None:
    frames = (home[:12, np.newaxis] / 255).astype(np.float32)
    frames[7, 0, 3, 3] = np.nan
    frames[10, 0, 0, 0] = -np.inf
    np.save(tmp_path / "frames.npy", frames)
    for every in (1, 5):
        result = cli("monitor", monitored, "--frames", tmp_path / "frames.npy", "--every", every)
        assert result.status == 1
        assert [(a["code"], a["frame"], a["where"]) for a in lines(result)] == [
            ("BNF-D010", 7, "input"), ("BNF-D010", 10, "input"),
        ]  # fmt: skip
        assert result.err.splitlines()[-1] == "2 alarms, no verdict"


def test_a_bad_file_among_good_ones_is_told_and_passed_over(
    monitored: Path, home: Array, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(home[:6]):
        np.save(tmp_path / "frames" / f"{number}.npy", frame)
    (tmp_path / "frames" / "2.npy").write_bytes(b"\x93NUMPY broken")
    np.save(tmp_path / "frames" / "4.npy", np.zeros((1, 1, 28, 29), dtype=np.float32))
    result = cli("monitor", monitored, "--frames", tmp_path / "frames", "--state", "kept")
    assert result.status == 1
    assert [(a["code"], a["frame"], a["name"], a["evidence"]["code"]) for a in lines(result)] == [
        ("BNF-D012", 2, "2.npy", "BNF-R003"),
        ("BNF-D012", 4, "4.npy", "BNF-R010"),
    ]
    assert "2 frames that could not be used" in result.err
    counts = State.load(tmp_path / "kept").counts
    assert (counts.frames, counts.kept, counts.unusable) == (6, 4, 2)


def test_where_no_frame_can_be_used_the_input_is_wrong(
    monitored: Path, folder: Path, tmp_path: Path, cli: Cli
) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((3, 1, 28, 29), dtype=np.float32))
    result = cli("monitor", monitored, "--frames", tmp_path / "wide.npy", "--format", "json")
    assert result.status == 2
    assert result.document["error"]["code"] == "BNF-R010"
    assert "wide.npy[0]" in result.document["error"]["where"]
    for name, code in (("nothing", "BNF-R001"), (folder / "expected.json", "BNF-R002")):
        result = cli("monitor", monitored, "--frames", name, "--format", "json")
        assert (result.status, result.document["error"]["code"]) == (2, code)


def test_the_state_s_place_is_tried_before_the_first_frame(
    monitored: Path, folder: Path, tmp_path: Path, cli: Cli
) -> None:
    result = cli("monitor", monitored, "--frames", folder / "digits.npz", "--state", "no/where")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("error[BNF-P013]")
    (tmp_path / "kept").write_bytes(b"not a state, and not ours to overwrite")
    result = cli("monitor", monitored, "--frames", folder / "digits.npz", "--state", "kept")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("error[BNF-M031]")
    assert "remove" not in result.err  # it may be anything: an artifact, a checkpoint
    assert (tmp_path / "kept").read_bytes().startswith(b"not a state")
    result = cli("monitor", monitored, "--frames", folder / "digits.npz", "--reset")
    assert result.err.startswith("error[BNF-U001]")


# --- a pipe ----------------------------------------------------------------------------------------------


def piped(monitored: Path, *options: str, cwd: Path) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "bnfold_cli", "monitor", monitored, "--frames", "-", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd)


def send(process: subprocess.Popen[bytes], frames: Array) -> None:
    assert process.stdin is not None
    for frame in frames:
        buffer = io.BytesIO()  # numpy.save asks a pipe for its position, and fails
        np.save(buffer, frame)
        process.stdin.write(buffer.getvalue())
    process.stdin.flush()


def test_arrays_and_paths_through_a_pipe(
    monitored: Path, home: Array, bright: Array, tmp_path: Path, cli: Cli
) -> None:
    stream = np.concatenate([home[:40], bright[:24]])
    np.save(tmp_path / "all.npy", stream)
    expected = lines(cli("monitor", monitored, "--frames", tmp_path / "all.npy", "--state", "file"))
    assert len(expected) == 1
    for number, frame in enumerate(stream):
        np.save(tmp_path / f"{number:03}.npy", frame)
    process = piped(monitored, "--state", "arrays", cwd=tmp_path)
    send(process, stream)
    out, err = process.communicate()
    assert process.returncode == 1, err
    images = b"".join(b"P5 28 # wide\n28\n255\n" + frame.tobytes() for frame in stream)
    shown = piped(monitored, "--state", "images", cwd=tmp_path)
    seen, err = shown.communicate(images)
    assert shown.returncode == 1, err
    paths = "".join(f"{number:03}.npy\n" for number in range(64)).encode()
    listed = piped(monitored, "--state", "paths", cwd=tmp_path)
    told, err = listed.communicate(paths)
    assert listed.returncode == 1, err
    for text in (out, seen, told):
        (alarm,) = [json.loads(line) for line in text.splitlines()]
        assert {**alarm, "name": ""} == {**expected[0], "name": ""}
    kept = {(tmp_path / name).read_bytes() for name in ("file", "arrays", "images", "paths")}
    assert len(kept) == 1


def test_an_alarm_does_not_wait_for_the_end_and_ctrl_c_keeps_the_state(
    monitored: Path, home: Array, tmp_path: Path
) -> None:
    for number, start in ((signal.SIGINT, 0), (signal.SIGTERM, 20)):
        frames = (home[start : start + 20, np.newaxis] / 255).astype(np.float32)
        frames[5] = np.nan
        process = piped(monitored, "--state", "kept", cwd=tmp_path)
        send(process, frames)
        assert process.stdout is not None
        alarm = json.loads(process.stdout.readline())  # the pipe is still open
        assert (alarm["code"], alarm["frame"]) == ("BNF-D010", start + 5)
        time.sleep(0.5)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        so_far = "no drift" if start else "no verdict"  # 19 kept frames are too few, 38 are not
        assert err.decode().splitlines()[-1] == f"interrupted; 1 alarm, {so_far}"
    counts = State.load(tmp_path / "kept").counts
    assert (counts.frames, counts.bad_inputs) == (40, 2)
    assert counts.kept == 38
    assert list(tmp_path.iterdir()) == [tmp_path / "kept"]  # no temporary file


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (lambda data: data + data[:100], "BNF-R032"),
        (lambda data: data + b"\x93NUMPX" + data[6:], "BNF-R032"),
        (lambda data: data + b"P5 28 28", "BNF-R032"),
        (lambda data: b"\x89PNG\r\n\x1a\n\0\0\0", "BNF-R033"),
        (lambda data: b"nothing.npy\nnowhere.npy\n", "BNF-R001"),
    ],
    ids=["cut", "noise", "mixed", "image", "paths"],
)
def test_a_pipe_of_something_else(
    monitored: Path, home: Array, tmp_path: Path, given: Callable[[bytes], bytes], code: str
) -> None:
    np.save(tmp_path / "one.npy", home[0])
    process = piped(monitored, "--state", "kept", cwd=tmp_path)
    _, err = process.communicate(given((tmp_path / "one.npy").read_bytes()))
    assert process.returncode == 2
    assert err.decode().startswith(f"error[{code}]")
    assert State.load(tmp_path / "kept").counts.kept == (code == "BNF-R032")


def test_a_path_that_is_no_utf_8_leaves_the_alarm_json(
    monitored: Path, home: Array, tmp_path: Path
) -> None:
    np.save(tmp_path / "one.npy", home[0])
    out, _ = piped(monitored, cwd=tmp_path).communicate(b"one.npy\nd\xe9j\xe0.npy\n")
    (alarm,) = [json.loads(line) for line in out.splitlines()]
    assert alarm["name"] == "d\\udce9j\\udce0.npy"
    assert alarm["name"] in alarm["message"]
    json.dumps(alarm, ensure_ascii=False).encode()  # no half characters, which other readers refuse


def test_an_empty_pipe(monitored: Path, tmp_path: Path) -> None:
    process = piped(monitored, cwd=tmp_path)
    out, err = process.communicate(b"")
    assert (process.returncode, out) == (0, b"")
    assert err.decode().splitlines()[-1] == "no verdict: too few frames"


# --- the camera loop --------------------------------------------------------------------------------------


def test_the_stream_answers_every_frame_as_the_clean_file_does(
    digits: Case, monitored: Path, tmp_path: Path
) -> None:
    stream = Stream(monitored, clean=digits.path, every=4, state=tmp_path / "kept")
    for index in range(20):
        seen = stream.predict(digits.frames[index])
        digits.check(seen.outputs, index)
        assert seen.findings == []
    stream.save()
    counts = State.load(tmp_path / "kept").counts
    assert (counts.frames, counts.kept) == (20, 5)
    again = Stream(monitored, state=tmp_path / "kept")
    assert again.resumed
    again.predict(digits.frames[20])
    assert again.monitor.state.counts.frames == 21
    broken = np.full((1, 1, 28, 28), np.inf, dtype=np.float32)
    seen = again.predict(broken)
    assert (seen.outputs, [finding.code for finding in seen.findings]) == ({}, ["BNF-D010"])
    digits.check(again.predict(digits.frames[3]).outputs, 3)


def test_files_that_are_no_pair(digits: Case, monitored: Path, folder: Path) -> None:
    for clean in (monitored, folder / f"mnist_mlp{monitored.suffix}"):
        with pytest.raises(BnfoldError) as caught:
            Stream(monitored, clean=clean)
        assert caught.value.code == "BNF-U147"
    with pytest.raises(BnfoldError) as caught:
        Stream(digits.path)
    assert caught.value.code == "BNF-U140"


# --- the fleet --------------------------------------------------------------------------------------------


def test_a_fleet_and_the_device_that_stands_out(
    monitored: Path, home: Array, bright: Array, tmp_path: Path, cli: Cli
) -> None:
    order = np.random.default_rng(0).permutation(64)
    for number, frames in enumerate([home[order[:30]], home[order[34:]], bright[:40]]):
        np.save(tmp_path / "frames.npy", frames)
        cli("monitor", monitored, "--frames", tmp_path / "frames.npy", "--state", f"{number}.state")
    calm = cli("drift", "--merge", "0.state", "1.state", "--format", "json")
    assert (calm.status, calm.err) == (0, "")
    document = calm.document
    assert (document["passed"], document["drifted"], document["judged"]) == (True, False, True)
    assert document["counts"]["devices"] == 2
    assert document["counts"]["frames"] == 60
    result = cli("drift", "--merge", "0.state", "1.state", "2.state", "--format", "json")
    assert result.status == 1
    other_way = cli("drift", "--merge", "2.state", "0.state", "1.state", "--format", "json")
    assert other_way.out == result.out
    document = result.document
    assert (document["passed"], document["drifted"], document["together"]) == (False, True, False)
    assert [(d["name"], d["drifted"]) for d in document["devices"]] == [
        ("0.state", False), ("1.state", False), ("2.state", True),
    ]  # fmt: skip
    first = document["findings"][0]
    assert (first["code"], first["evidence"]["device"]) == ("BNF-A017", "2.state")
    assert first["where"].startswith("features.1")
    assert document["devices"][2]["layers"][0]["effect"] > 0.3
    for form in ("html", "junit"):  # a fleet has neither, and says so
        refused = cli("drift", "--merge", "0.state", "1.state", "--format", form)
        if form == "junit" or "BNF-P030" not in refused.err:
            assert (refused.status, refused.out) == (2, "")
            assert f"error[BNF-U162]: there is no {form} report" in refused.err
    text = cli("drift", "--merge", "0.state", "1.state", "2.state")
    assert text.status == 1
    assert text.out.rstrip().endswith("\ndrift")
    assert all(len(line) <= 80 for line in text.out.splitlines())


def test_states_that_cannot_be_merged(
    monitored: Path, folder: Path, home: Array, tmp_path: Path, cli: Cli
) -> None:
    frames = folder / "digits.npz"
    cli("monitor", monitored, "--frames", frames, "--state", "ours")
    np.save(tmp_path / "others.npy", home[:30])
    cli("monitor", monitored, "--frames", frames, "--state", "other", "--baseline", "others.npy")
    cut = (tmp_path / "ours").read_bytes()[:-7]
    (tmp_path / "cut").write_bytes(cut)
    newer = bytearray((tmp_path / "ours").read_bytes())
    newer[8] = 9
    (tmp_path / "newer").write_bytes(newer)
    for names, code in (
        (["ours", "other"], "BNF-U145"),
        (["ours", "./ours"], "BNF-U149"),
        (["ours", "cut"], "BNF-M031"),
        (["ours", "newer"], "BNF-M032"),
        (["ours", "nothing"], "BNF-M001"),
        (["ours", "--train-batch", "8"], "BNF-U149"),
        (["ours", "--blocks", "2"], "BNF-U149"),
    ):
        result = cli("drift", "--merge", *names, "--format", "json")
        assert (result.status, result.document["error"]["code"]) == (2, code)
    result = cli("monitor", monitored, "--frames", frames, "--state", "other", "--format", "json")
    assert (result.status, result.document["error"]["code"]) == (2, "BNF-M033")


def test_both_formats_share_their_states(monitored: Path, folder: Path) -> None:
    """A fleet may run the one file here and the other there."""
    others = [path for path in folder.glob("mnist_mobilenet.monitor.*") if path != monitored]
    document = bnfold.manifest.read(monitored)["drift_reference"]
    assert all(bnfold.manifest.read(other)["drift_reference"] == document for other in others)
