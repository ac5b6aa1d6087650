"""``bnfold`` as it is used on a device: answers, self-test, what a file says of itself, what is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfold import manifest

from .conftest import FORMATS, INSTALLED, ON_DEVICE, Case, Cli

pytestmark = pytest.mark.device

Altered = Callable[[Path, Callable[[dict[str, Any]], object]], Path]


def wrong_golden(document: dict[str, Any]) -> None:
    """The tolerance of a golden answer below any error."""
    for entry in document["golden"]["outputs"].values():
        entry["tolerance"] = -1.0


@pytest.mark.parametrize("file", ["digit.npy", "digit.pgm"])
def test_run_answers_with_labels_and_scores(digits: Case, cli: Cli, folder: Path, file: str) -> None:
    result = cli("run", digits.path, folder / file, "--format", "json")
    assert (result.status, result.err) == (0, "")
    document = result.document
    assert document["passed"] is True
    assert document["runtime"] == digits.model.runtime
    (frame,) = document["frames"]
    assert frame["frame"] == str(folder / file)
    (output,) = frame["outputs"]
    assert (output["output"], output["shape"], output["dtype"]) == ("output", [1, 10], "float32")
    expected = digits.answers["output"][0]
    assert output["values"][0] == pytest.approx(expected.tolist(), abs=digits.tolerance["output"])
    order = np.argsort(-expected)[:3].tolist()
    assert [entry["label"] for entry in output["top"]] == [str(index) for index in order]
    assert [entry["score"] for entry in output["top"]] == [output["values"][0][index] for index in order]


def test_run_answers_every_frame_of_a_file(digits: Case, cli: Cli, folder: Path) -> None:
    document = cli("run", digits.path, folder / "digits.npz", "--top", 1, "--format", "json").document
    assert [frame["frame"] for frame in document["frames"]] == [f"digits.npz[{i}]" for i in range(64)]
    tops = [frame["outputs"][0]["top"] for frame in document["frames"]]
    assert [[entry["index"] for entry in top] for top in tops] == [[best] for best in digits.best or ()]


def test_run_in_words(digits: Case, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)  # short names leave the table its words in a row
    result = cli("run", digits.path, "digit.pgm", "--top", 2)
    assert (result.status, result.err) == (0, "")
    first, second = np.sort(digits.answers["output"][0])[::-1][:2]
    words = result.out.split()
    assert digits.model.runtime in result.out
    assert "best" in words
    assert "3rd" not in words
    assert words[-4] == str(digits.best[0]) == "7"  # type: ignore[index]
    shown = [float(word.strip("()")) for word in (words[-3], words[-1])]
    assert shown == pytest.approx([first, second], rel=2e-3)  # four digits are shown


def test_run_with_several_inputs_and_one_output(sensor: Case, cli: Cli, folder: Path) -> None:
    frames = folder / "sensor_frames.npz"
    document = cli("run", sensor.path, frames, "--output", "aux.1", "--format", "json").document
    assert len(document["frames"]) == len(sensor.frames) == 24
    for index, frame in enumerate(document["frames"]):
        (output,) = frame["outputs"]
        assert output["output"] == "aux.1"
        expected = sensor.answers["aux.1"][index]
        assert output["values"][0] == pytest.approx(expected.tolist(), abs=sensor.tolerance["aux.1"])
        assert output["max"] == max(output["values"][0])
    every = cli("run", sensor.path, frames, "--format", "json").document
    assert [entry["output"] for entry in every["frames"][0]["outputs"]] == ["scores", "aux.0", "aux.1"]


def test_self_test_passes(case: Case, cli: Cli) -> None:
    result = cli("run", case.path, "--self-test", "--format", "json")
    assert (result.status, result.err) == (0, "")
    assert result.document["passed"] is True
    assert [check["output"] for check in result.document["self_test"]] == list(case.answers)
    text = cli("run", case.path, "--self-test")
    assert (text.status, text.err) == (0, "")
    assert text.out.splitlines()[-1] == "passed"


def test_self_test_fails_with_status_1(case: Case, cli: Cli, altered: Altered) -> None:
    path = altered(case.path, wrong_golden)
    result = cli("run", path, "--self-test", "--format", "json")
    assert result.status == 1
    assert result.document["passed"] is False
    assert {check["passed"] for check in result.document["self_test"]} == {False}
    text = cli("run", path, "--self-test")
    assert text.status == 1
    assert text.out.splitlines()[-1] == "FAILED"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "DIGITS"], "U001"),
        (["run", "DIGITS", "nothing.pgm"], "R001"),
        (["run", "DIGITS", "wide.npy"], "R010"),
        (["run", "DIGITS", "nan.npy"], "R018"),
        (["run", "DIGITS", "cut.pgm"], "R003"),
        (["run", "DIGITS", "image.png"], "P022"),
        (["run", "DIGITS", "FRAME", "--output", "logits"], "U062"),
        (["run", "DIGITS", "FRAME", "--top", "0"], "U010"),
        (["run", "SENSOR", "FRAME"], "R012"),
        (["inspect", "DIGITS", "--nonsense"], "U001"),
        (["monitor", "DIGITS"], "U001"),
        (["monitor", "DIGITS", "--frames", "wide.npy"], "U140"),
        (["drift", "--merge", "nothing.state"], "M001"),
        (["drift", "--merge", "wide.npy"], "M031"),
        (["drift", "DIGITS"], "U001"),
        (["drift", "DIGITS", "--merge", "wide.npy"], "U149"),
        (["audit", "DIGITS"], "U030"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_end_with_status_2_and_one_code(
    digits: Case, sensor: Case, folder: Path, cli: Cli, tmp_path: Path, arguments: list[str], code: str
) -> None:
    if code == "P022" and not ON_DEVICE:
        pytest.skip("Pillow is here")
    np.save(tmp_path / "wide.npy", np.zeros((1, 1, 28, 29), dtype=np.float32))
    np.save(tmp_path / "nan.npy", np.full((1, 1, 28, 28), np.nan, dtype=np.float32))
    (tmp_path / "cut.pgm").write_bytes((folder / "digit.pgm").read_bytes()[:-1])
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    paths = {"DIGITS": digits.path, "SENSOR": sensor.path, "FRAME": folder / "digit.pgm"}
    result = cli(*(paths.get(argument, argument) for argument in arguments))
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"error[BNF-{code}]: ")
    assert len(result.err.splitlines()) <= 5
    document = cli(*(paths.get(argument, argument) for argument in arguments), "--format", "json").document
    assert document["passed"] is False
    assert document["error"]["code"] == f"BNF-{code}"


def test_inspect(case: Case, cli: Cli) -> None:
    result = cli("inspect", case.path, "--format", "json")
    assert (result.status, result.err) == (0, "")
    assert result.document["manifest"] == manifest.read(case.path) == case.model.manifest
    assert result.document["size_bytes"] == case.path.stat().st_size
    text = cli("inspect", case.path)
    assert (text.status, text.err) == (0, "")
    for entry in [*case.model.manifest["inputs"], *case.model.manifest["outputs"]]:
        assert f"{entry['name']}" in text.out
        assert "x".join(map(str, entry["shape"])) in text.out
    norms = case.model.manifest["batch_norms"]
    assert f"{len(norms)} BatchNorm" in text.out
    assert all(norm["name"] in text.out for norm in norms)


def test_doctor(cli: Cli) -> None:
    result = cli("doctor", "--format", "json")
    assert (result.status, result.err) == (0, "")
    found = {entry["name"]: entry["version"] for entry in result.document["interpreters"]}
    assert [name for name, version in found.items() if version is not None] == INSTALLED
    for name in INSTALLED:
        assert found[name] == metadata.version(name)
    works = {purpose["purpose"]: purpose["works"] for purpose in result.document["purposes"]}
    assert works["run ONNX artifacts"] is ("onnx" in FORMATS)
    assert works["run TFLite artifacts"] is ("tflite" in FORMATS)
    assert works["convert to ONNX"] is not ON_DEVICE
    text = cli("doctor")
    assert text.status == 0
    assert all(f"{name} {found[name]}" in text.out for name in INSTALLED[:1])
