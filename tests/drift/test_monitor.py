"""The monitor on drawn streams: alarms, what it keeps, restarts, damage, merging."""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bnfold.drift import Baseline, LayerReference, Monitor, Reference, State, merge
from bnfold.drift.monitor import EVERY, HISTORY
from bnfold.drift.watched import COLUMNS, spread
from bnfold.errors import ArtifactError, BnfoldError, InputError, UsageError
from bnfold.finding import Finding

SIZES = (6, 30)
Array = NDArray[Any]


def drawn(count: int, seed: int) -> Array:
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(5).normal(size=(3, sum(SIZES)))
    return 0.3 * random.normal(size=(count, 3)) @ mix + 0.4 * random.normal(size=(count, sum(SIZES)))


@pytest.fixture(scope="module")
def reference() -> Reference:
    random = np.random.default_rng(1)
    return Reference(
        tuple(
            LayerReference(f"bn{i}", random.normal(size=size), random.uniform(0.5, 2, size), 9, 0.1, 5000)
            for i, size in enumerate(SIZES)
        )
    )


def means(reference: Reference, row: Array) -> list[Array]:
    parts = np.split(row, np.cumsum(SIZES)[:-1])
    return [layer.mean + z * layer.deviation for layer, z in zip(reference.layers, parts, strict=True)]


def feed(monitor: Monitor, rows: Array, frames: Array | None = None) -> list[tuple[int, Finding]]:
    found = []
    for number, row in enumerate(rows):
        frame = None if frames is None else frames[number]
        found += [(number, finding) for finding in monitor.update(means(monitor.reference, row), frame=frame)]
    return found


def baseline(seed: int = 2, count: int = 100) -> Baseline:
    return Baseline.of(drawn(count, seed))


@pytest.mark.parametrize("tier", [0, 1])
def test_a_shift_is_found_and_said_once(reference: Reference, tier: int) -> None:
    monitor = Monitor(reference, baseline=baseline() if tier else None)
    rows = drawn(160, 3)
    rows[60:, 6:] += 0.8
    found = feed(monitor, rows)
    assert [finding.code for _, finding in found] == ["BNF-A017"]
    when, alarm = found[0]
    assert 60 <= when <= 100
    assert alarm.where.startswith("bn1")
    assert alarm.severity == "error"
    assert alarm.evidence["tier"] == tier
    assert alarm.evidence["frame"] == when
    assert monitor.drifted
    assert monitor.state.blamed == alarm.where
    monitor.reset()
    assert not monitor.drifted
    assert monitor.state.blamed == ""
    again = feed(monitor, rows[60:])
    assert [finding.code for _, finding in again] == ["BNF-A017"]


@pytest.mark.parametrize("tier", [0, 1])
def test_clean_streams_run_long(reference: Reference, tier: int) -> None:
    """At a mean of 1,000 frames, 6 streams of 320 frames have at most 0.96 alarms on average by the bound."""
    alarms = 0
    for seed in range(6):
        monitor = Monitor(reference, baseline=baseline(100 + seed) if tier else None)
        alarms += any(f.code == "BNF-A017" for _, f in feed(monitor, drawn(320, 1000 + seed)))
    assert alarms <= 3


def test_values_that_are_not_finite_are_said_at_once(reference: Reference) -> None:
    monitor = Monitor(reference)
    rows = drawn(6, 0)
    good = np.zeros((1, 4, 4), dtype=np.float32)
    bad = good.copy()
    bad[0, 1, 1] = np.inf
    assert monitor.update(means(reference, rows[0]), frame={"x": good}) == []
    found = monitor.update(means(reference, rows[1]), frame={"x": bad})
    assert [(f.code, f.where, f.severity) for f in found] == [("BNF-D010", "input", "error")]
    broken = means(reference, rows[2])
    broken[1][3] = np.nan
    found = monitor.update(broken, frame={"x": good + rows[2, 0]})
    assert [(f.code, f.where) for f in found] == [("BNF-D011", "bn1")]
    found = monitor.update(means(reference, rows[3]), outputs={"y": np.array([1.0, np.nan])})
    assert [(f.code, f.where) for f in found] == [("BNF-D011", "outputs")]
    counts = monitor.state.counts
    assert (counts.frames, counts.kept, counts.bad_inputs, counts.bad_outputs) == (4, 1, 1, 2)


def test_repeats_are_not_kept(reference: Reference) -> None:
    monitor = Monitor(reference, baseline=baseline())
    random = np.random.default_rng(0)
    scenes, rows = random.uniform(size=(60, 1, 12, 12)), drawn(60, 7)
    frames = np.repeat(scenes, 8, axis=0) + random.normal(scale=0.01, size=(480, 1, 12, 12))
    found = feed(monitor, np.repeat(rows, 8, axis=0), frames)
    assert monitor.state.counts.kept == 60
    assert found == []


def test_a_correlated_stream_is_thinned_and_gives_no_alarm(reference: Reference) -> None:
    alarms = 0
    for seed in range(3):
        monitor = Monitor(reference, baseline=baseline(20 + seed))
        fresh = drawn(800, 50 + seed)
        rows = [fresh[0]]
        for row in fresh[1:]:
            rows.append(0.9 * rows[-1] + np.sqrt(1 - 0.81) * row)
        found = feed(monitor, np.array(rows))
        assert monitor.state.stride >= 4
        assert found[0][1].code == "BNF-D004"
        alarms += any(f.code == "BNF-A017" for _, f in found)
    assert alarms <= 1


def test_frames_that_did_not_run_are_looked_at_for_nan_alone(reference: Reference) -> None:
    monitor = Monitor(reference)
    rows = drawn(3, 0)
    good = np.zeros((1, 4, 4), dtype=np.float32)
    assert monitor.update(None, frame=good, outputs={"y": np.zeros(3)}) == []
    assert [f.code for f in monitor.update(None, frame=good + np.inf)] == ["BNF-D010"]
    assert [f.code for f in monitor.update(None, outputs={"y": np.array([np.nan])})] == ["BNF-D011"]
    finding = monitor.unusable("7.png", InputError("BNF-R003", "the image cannot be decoded"))
    assert (finding.code, finding.severity, finding.evidence["code"]) == ("BNF-D012", "error", "BNF-R003")
    assert "frame 3 (7.png)" in finding.message
    monitor.update(means(reference, rows[0]))
    counts = monitor.state.counts
    assert (counts.frames, counts.kept) == (5, 1)
    assert (counts.bad_inputs, counts.bad_outputs, counts.unusable) == (1, 1, 1)


@pytest.mark.parametrize("tier", [0, 1])
def test_a_large_shift_needs_few_frames_and_a_small_one_more(reference: Reference, tier: int) -> None:
    """8 of the last 64 frames are enough for what is large; 64 see what 32 do not."""

    def delay(shift: float, seed: int) -> int:
        rows = drawn(64 + 150, 700 + seed)
        rows[64:, 6:] += shift * np.sign(np.random.default_rng(9).normal(size=30))
        monitor = Monitor(reference, baseline=baseline(seed) if tier else None)
        found = [number - 63 for number, finding in feed(monitor, rows) if finding.code == "BNF-A017"]
        return found[0] if found and found[0] > 0 else 150

    large = [delay(1.5, seed) for seed in range(5)]
    small = [delay(0.12 if tier else 0.35, seed) for seed in range(5)]
    assert np.median(large) <= 8 if tier else np.median(large) <= 16
    assert np.median(large) < np.median(small) <= 64


def test_a_look_is_taken_every_eighth_frame_after_32(reference: Reference) -> None:
    monitor = Monitor(reference, baseline=baseline())
    looks = []
    for row in drawn(80, 4):
        monitor.update(means(reference, row))
        looks.append(monitor.state.counts.looks)
    assert [n + 1 for n in range(80) if looks[n] > (looks[n - 1] if n else 0)] == [32, 40, 48, 56, 64, 72, 80]
    assert EVERY == 8


def test_every_kth_frame(reference: Reference) -> None:
    monitor = Monitor(reference, every=10)
    assert [number for number in range(31) if monitor.due(number)] == [0, 10, 20, 30]


# --- the state -------------------------------------------------------------------------------------------


def test_a_restart_changes_nothing(reference: Reference, tmp_path: Path) -> None:
    rows = drawn(160, 3)
    rows[60:, 6:] += 0.8
    through = feed(Monitor(reference, baseline=baseline()), rows)
    path = tmp_path / "state"
    found: list[tuple[int, Finding]] = []
    for start in range(0, len(rows), 7):
        state = State.load(path) if start else None
        monitor = Monitor(reference, baseline=baseline(), state=state)
        found += [(start + n, f) for n, f in feed(monitor, rows[start : start + 7])]
        monitor.save(path)
    assert found == through


def test_a_state_of_100_layers_is_small(tmp_path: Path) -> None:
    """With the names of a real network, a baseline, and sums as after a year of frames."""
    layers = tuple(
        LayerReference(f"features.denseblock{i // 25}.denselayer{i}.norm2", np.zeros(512), np.ones(512), 1)
        for i in range(100)
    )
    random = np.random.default_rng(0)
    held_out = random.normal(size=(50, 51200))
    pictures = random.normal(size=(50, 160))  # of two cameras
    for known in (None, Baseline.of(held_out), Baseline.of(held_out, layout=pictures)):
        monitor = Monitor(Reference(layers), baseline=known)
        for _ in range(40):
            taps = [random.normal(size=512) for _ in layers]
            monitor.update(taps, frame=random.uniform(size=(3, 224, 224)))
        assert len(monitor.state.sums) == COLUMNS
        state = monitor.state
        state.sums += random.integers(0, 2**38, COLUMNS)
        state.squares += random.integers(0, 2**46, COLUMNS)
        state.ring[:] = random.integers(0, 256, state.ring.shape)  # nothing to deflate
        state.layout[:] = random.integers(0, 256, state.layout.shape)
        monitor.save(tmp_path / "state")
        assert (tmp_path / "state").stat().st_size < 64 * 1024


def test_columns_are_spread_over_the_layers() -> None:
    parts = spread([3, 1000, 0, 50, 4000], 300)
    assert [len(part) for part in parts] == [3, 123, 0, 50, 124]
    assert all(len(set(part)) == len(part) for part in parts)
    assert max(parts[4]) < 4000
    assert [len(part) for part in spread([5, 6], 300)] == [5, 6]


def bomb(data: bytes) -> bytes:
    """Arrays that would unpack to far more than the header says."""
    _, _, length = struct.unpack_from("<8sHI", data)
    body = data[: 14 + length] + zlib.compress(bytes(10**8))
    return body + struct.pack("<I", zlib.crc32(body))


def damaged() -> list[tuple[str, Any]]:
    def layers(scale: Any) -> Any:
        def change(data: bytes) -> bytes:
            _, _, length = struct.unpack_from("<8sHI", data)
            document = json.loads(data[14 : 14 + length])
            raw = zlib.decompress(data[14 + length : -4])[document["scale"] :]
            text = json.dumps(scale).encode()
            document["scale"] = len(text)
            head = json.dumps(document).encode()
            body = struct.pack("<8sHI", b"BNFOLDMS", 2, len(head)) + head + zlib.compress(text + raw)
            return body + struct.pack("<I", zlib.crc32(body))

        return change

    def header(key: str, value: Any) -> Any:
        def change(data: bytes) -> bytes:
            _, _, length = struct.unpack_from("<8sHI", data)
            document = json.loads(data[14 : 14 + length])
            document[key] = value
            text = json.dumps(document).encode()
            body = struct.pack("<8sHI", b"BNFOLDMS", 2, len(text)) + text + data[14 + length : -4]
            return body + struct.pack("<I", zlib.crc32(body))

        return change

    return [
        ("empty", lambda data: b""),
        ("cut", lambda data: data[:-9]),
        ("flipped", lambda data: data[:700] + bytes([data[700] ^ 4]) + data[701:]),
        ("another file", lambda data: b"PK" + data),
        ("columns", header("columns", 7)),
        ("window", header("window", -1)),
        ("counts", header("counts", {"frames": 1.5})),
        ("unknown count", header("counts", {"sheep": 1})),
        ("stride", header("stride", 0)),
        ("filled", header("filled", 65)),
        ("alarmed", header("alarmed", 1)),
        ("settled", header("settled", None)),
        ("pictured", header("pictured", 1)),
        ("numbers", header("numbers", 1)),
        ("blamed", header("blamed", 3)),
        ("scale", header("scale", None)),
        ("no scale", layers(None)),
        ("no layers", layers({"tier": 0, "layers": []})),
        ("another tier", layers({"tier": 2, "layers": [["bn", 36, 1, None, 1]]})),
        ("layer", layers({"tier": 0, "layers": [["bn", 36, -1, None, 1]]})),
        ("columns of a layer", layers({"tier": 0, "layers": [["bn", 35, 1, None, 1]]})),
        ("bomb", bomb),
    ]


@pytest.mark.parametrize(("name", "change"), damaged(), ids=[name for name, _ in damaged()])
def test_a_damaged_state_is_known(reference: Reference, tmp_path: Path, name: str, change: Any) -> None:
    monitor = Monitor(reference)
    feed(monitor, drawn(40, 0))
    monitor.save(tmp_path / "state")
    (tmp_path / "state").write_bytes(change((tmp_path / "state").read_bytes()))
    refused(lambda: State.load(tmp_path / "state"), ArtifactError, "BNF-M031")


def refused(call: Any, kind: type[BnfoldError], code: str) -> BnfoldError:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def test_a_state_that_is_not_ours(reference: Reference, tmp_path: Path) -> None:
    state = Monitor(reference).state
    refused(lambda: Monitor(reference, baseline=baseline(), state=state), ArtifactError, "BNF-M033")
    refused(lambda: State.load(tmp_path / "none"), ArtifactError, "BNF-M001")
    data = bytearray(state.to_bytes())
    data[8] = 3
    refused(lambda: State.from_bytes(bytes(data)), ArtifactError, "BNF-M032")


def test_a_state_of_the_first_version_goes_on(reference: Reference, tmp_path: Path) -> None:
    """It had a window of 32 frames; what it held stays, and the window fills up."""
    whole, parts = (Monitor(reference, baseline=baseline()) for _ in range(2))
    rows = drawn(120, 3)
    rows[80:, 6:] += 1.0
    feed(whole, rows[:40])
    feed(parts, rows[:40])
    state = parts.state
    state.ring, state.filled = state.ring[-32:], 32
    old = bytearray(state.to_bytes())
    old[8] = 1
    old[-4:] = struct.pack("<I", zlib.crc32(bytes(old[:-4])))
    (tmp_path / "state").write_bytes(bytes(old))
    parts = Monitor(reference, baseline=baseline(), state=State.load(tmp_path / "state"))
    assert parts.state.ring.shape == (HISTORY, sum(SIZES))
    assert parts.state.window.tolist() == whole.state.window[-32:].tolist()
    assert parts.state.counts == whole.state.counts
    assert parts.state.to_bytes()[8] == 2
    codes = [finding.code for _, finding in feed(parts, rows[40:])]
    assert codes == [finding.code for _, finding in feed(whole, rows[40:])] == ["BNF-A017"]
    merged = merge([State.load(tmp_path / "state"), whole.state])
    assert merged.counts.kept == 40 + 120


def test_what_cannot_be_watched(reference: Reference) -> None:
    refused(lambda: Monitor(reference, arl=3), UsageError, "BNF-U143")
    refused(lambda: Monitor(reference, arl=10**6 + 1), UsageError, "BNF-U143")
    Monitor(reference, arl=10**6)
    refused(lambda: Monitor(reference, every=0), UsageError, "BNF-U143")
    refused(lambda: Monitor(reference, train_batch=1), UsageError, "BNF-U146")
    Monitor(reference, train_batch=1, baseline=baseline())
    refused(lambda: Monitor(reference, baseline=baseline(count=19)), UsageError, "BNF-U143")
    Monitor(reference, baseline=baseline(count=20))
    with pytest.raises(ValueError, match="1 taps for 2 layers"):
        Monitor(reference).update([np.zeros(6)])
    with pytest.raises(ValueError, match="bn1: 6 taps for 30 channels"):
        Monitor(reference).update([np.zeros(6), np.zeros(6)])


def test_merging_is_exact_and_has_no_order(reference: Reference) -> None:
    monitors = [Monitor(reference, baseline=baseline()) for _ in range(4)]
    for seed, monitor in enumerate(monitors):
        feed(monitor, drawn(20 + 30 * seed, seed) + (2.0 if seed == 3 else 0.0))
    states = [monitor.state for monitor in monitors]
    merged = [merge(order).to_bytes() for order in itertools.permutations(states)]
    assert len(set(merged)) == 1
    halves = merge([merge(states[:2]), merge(states[2:])])
    assert halves.to_bytes() == merged[0]
    total = State.from_bytes(merged[0])
    assert total.counts.devices == 4
    assert total.counts.frames == 20 + 50 + 80 + 110
    assert total.counts.alarms == 1
    assert total.alarmed
    assert total.sums.tolist() == sum(state.sums for state in states).tolist()
    assert total.squares.tolist() == sum(state.squares for state in states).tolist()


def test_what_cannot_be_merged(reference: Reference) -> None:
    refused(lambda: merge([]), UsageError, "BNF-U144")
    others = [Monitor(reference).state, Monitor(reference, baseline=baseline()).state]
    refused(lambda: merge(others), UsageError, "BNF-U145")


def test_the_level_is_the_one_of_the_stated_run_length(reference: Reference) -> None:
    """P(no alarm in n looks) >= (1 - alpha)^n: the mean run length is at least EVERY / alpha = ARL."""
    for arl in (200, 1000):
        assert Monitor(reference, arl=arl).alpha == pytest.approx(EVERY / arl)
