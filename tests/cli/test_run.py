"""``bnfold run``: answers whose values are known beforehand, and every way of giving a frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from .conftest import Cli

BRIGHT = np.array([[255, 255, 51, 51]] * 2, dtype=np.uint8)


def scores(document: dict[str, Any], frame: int = 0) -> dict[str, float]:
    best = document["frames"][frame]["outputs"][0]["top"]
    return {entry["label"]: entry["score"] for entry in best}


def test_labels_and_scores_of_an_image(cli: Cli, halves: Path, left_bright: Path) -> None:
    result = cli("run", halves, left_bright, "--format", "json")
    assert result.status == 0
    assert list(scores(result.document)) == ["left", "right", "neither"]
    assert scores(result.document) == pytest.approx({"left": 4.0, "right": 0.8, "neither": 0.5}, rel=1e-6)
    assert result.document["frames"][0]["outputs"][0]["values"][0] == pytest.approx([4.0, 0.8, 0.5])
    assert result.document["runtime"].startswith("onnxruntime ")
    assert result.err == ""


def test_text_names_frame_labels_and_interpreter(cli: Cli, halves: Path, left_bright: Path) -> None:
    result = cli("run", halves, left_bright.name)
    assert result.status == 0
    assert "left (4)" in result.out
    assert "right (0.8)" in result.out
    assert "left.pgm" in result.out
    assert "onnxruntime" in result.out


def test_top_takes_as_many_as_asked_between_frames_too(cli: Cli, halves: Path, left_bright: Path) -> None:
    result = cli("run", halves, "--top", 1, left_bright, left_bright, "--format=json")
    assert [scores(result.document, i) for i in range(2)] == [{"left": pytest.approx(4.0)}] * 2


@pytest.mark.parametrize(
    ("array", "count"),
    [
        (BRIGHT, 1),
        (BRIGHT[..., None], 1),
        (np.stack([BRIGHT, BRIGHT[:, ::-1]]), 2),
        (BRIGHT.astype(np.float32)[None] / 255, 1),
        (BRIGHT.astype(np.float32)[None, None] / 255, 1),
        (np.stack([BRIGHT, BRIGHT[:, ::-1]]).astype(np.float32)[:, None] / 255, 2),
    ],
    ids=["HW", "HW1", "frames of HW", "CHW", "NCHW", "frames of CHW"],
)
def test_an_array_is_one_frame_where_it_fits_as_one(
    cli: Cli, halves: Path, tmp_path: Path, array: NDArray[Any], count: int
) -> None:
    np.save(tmp_path / "frame.npy", array)
    document = cli("run", halves, "frame.npy", "--format", "json").document
    assert len(document["frames"]) == count
    assert scores(document) == pytest.approx({"left": 4.0, "right": 0.8, "neither": 0.5}, rel=1e-6)
    if count == 2:
        assert scores(document, 1) == pytest.approx({"right": 4.0, "left": 0.8, "neither": 0.5}, rel=1e-6)


def test_a_folder_in_sorted_order(cli: Cli, halves: Path, left_bright: Path, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    np.save(tmp_path / "many" / "b.npy", BRIGHT[:, ::-1])
    left_bright.rename(tmp_path / "many" / "a.pgm")
    document = cli("run", halves, "many", "--format", "json").document
    assert [frame["frame"] for frame in document["frames"]] == ["a.pgm", "b.npy"]
    assert [next(iter(scores(document, i))) for i in range(2)] == ["left", "right"]


def test_several_inputs_by_name(cli: Cli, sensors: Path, tmp_path: Path) -> None:
    first = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.savez(tmp_path / "series.npz", barometer=first * 100, accelerometer=first)
    document = cli("run", sensors, "series.npz", "--format", "json").document
    outputs = {entry["output"]: entry for entry in document["frames"][1]["outputs"]}
    assert outputs["sum"]["values"] == (first[1:] * 101).tolist()
    assert outputs["total.first"]["values"] == first[1].sum()  # of the accelerometer, not of the first tensor
    assert outputs["sum"]["top"] is None


def test_an_output_that_is_no_list_of_scores_shows_its_range(cli: Cli, sensors: Path, tmp_path: Path) -> None:
    ones = np.ones((1, 2, 3), dtype=np.float32)
    np.savez(tmp_path / "series.npz", barometer=ones, accelerometer=ones)
    result = cli("run", sensors, "series.npz", "--output", "sum")
    assert "sum: float32 1x2x3, 2" in result.out
    assert "total.first" not in result.out


def test_self_test_passes_and_fails(cli: Cli, halves: Path, wrong_halves: Path) -> None:
    good = cli("run", halves, "--self-test", "--format", "json")
    assert good.status == 0
    assert good.document["self_test"] == [
        {"output": "output", "max_abs_error": 0.0, "tolerance": 1e-6, "passed": True}
    ]
    bad = cli("run", wrong_halves, "--self-test")
    assert bad.status == 1
    assert "0.25" in bad.out
    assert "FAILED" in bad.out


def test_the_self_test_of_a_changed_file_shows_whether_it_answers_alike(
    cli: Cli, halves: Path, left_bright: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(halves)
    model.producer_name = "somebody"
    onnx.save(model, "same.onnx")
    bias = next(t for t in model.graph.initializer if t.name == "b")
    bias.CopyFrom(numpy_helper.from_array(np.array([0, 0, 0.75], np.float32), "b"))
    onnx.save(model, "bad.onnx")
    for name, error in (("same.onnx", 0.0), ("bad.onnx", 0.25)):
        result = cli("run", name, "--self-test", "--format", "json")
        assert (result.status, result.document["passed"]) == (1, False)
        [check] = result.document["self_test"]
        assert (check["max_abs_error"], check["passed"]) == (error, error == 0)
        [found] = result.document["findings"]
        assert (found["code"], found["severity"], found["where"]) == ("BNF-M007", "error", name)
    text = cli("run", "same.onnx", "--self-test")
    assert text.status == 1
    assert "error[BNF-M007] same.onnx" in text.out
    assert "FAILED" in text.out
    for arguments in (["bad.onnx", left_bright], ["bad.onnx", left_bright, "--self-test"]):
        refused = cli("run", *arguments)
        assert (refused.status, refused.out) == (2, "")
        assert refused.err.startswith("error[BNF-M007]")
    # one that no interpreter takes is said to be changed, not to need another interpreter
    Path("no.onnx").write_bytes(halves.read_bytes().replace(b"Flatten", b"Flitten"))
    refused = cli("run", "no.onnx", "--self-test")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith("error[BNF-M007]")
    Path("half.onnx").write_bytes(halves.read_bytes()[:100])
    assert cli("run", "half.onnx", "--self-test").status == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nothing.onnx", "left.pgm"], "BNF-M001"),
        (["left.pgm", "left.pgm"], "BNF-M002"),
        (["HALVES"], "BNF-U001"),
        (["HALVES", "nothing.png"], "BNF-R001"),
        (["HALVES", "text.png"], "BNF-R002"),
        (["HALVES", "wide.npy"], "BNF-R010"),
        (["HALVES", "nan.npy"], "BNF-R018"),
        (["HALVES", "left.pgm", "--output", "logits"], "BNF-U062"),
        (["HALVES", "left.pgm", "--runtime", "tflite-runtime"], "BNF-U060"),
        (["HALVES", "left.pgm", "--threads", "0"], "BNF-U010"),
        (["HALVES", "left.pgm", "--top", "none"], "BNF-U010"),
        (["SENSORS", "left.pgm"], "BNF-R012"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes(
    cli: Cli, halves: Path, sensors: Path, left_bright: Path, tmp_path: Path, arguments: list[str], code: str
) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    np.save(tmp_path / "wide.npy", np.zeros((1, 1, 2, 5), dtype=np.float32))
    np.save(tmp_path / "nan.npy", np.full((1, 1, 2, 4), np.nan, dtype=np.float32))
    paths = {"HALVES": halves, "SENSORS": sensors}
    result = cli("run", *(paths.get(argument, argument) for argument in arguments))
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith(f"error[{code}]: ")
    assert len(result.err.splitlines()) <= 5
    assert "Traceback" not in result.err


def test_a_mistake_in_one_of_several_frames_names_the_frame(cli: Cli, halves: Path, tmp_path: Path) -> None:
    frames = np.zeros((3, 1, 2, 4), dtype=np.float32)
    frames[1] = np.inf
    np.save(tmp_path / "frames.npy", frames)
    result = cli("run", halves, "frames.npy")
    assert result.status == 2
    assert "frames.npy[1]" in result.err


BLOCKED = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "rich", "PIL", "scipy", "pandas", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
"""


def test_runs_without_torch_rich_and_pillow(shell: Cli, halves: Path, left_bright: Path) -> None:
    result = shell("run", halves, left_bright, "--format", "json", code=BLOCKED)
    assert result.status == 0, result.err
    assert scores(result.document)["left"] == pytest.approx(4.0)


def test_a_png_without_pillow_says_what_to_install(shell: Cli, halves: Path, tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = shell("run", halves, tmp_path / "frame.png", code=BLOCKED)
    assert result.status == 2
    assert result.err.startswith("error[BNF-P022]")
    assert "pip install 'bnfold[images]'" in result.err
