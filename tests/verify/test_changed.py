"""An artifact whose bytes were changed after it was written: it is compared, and called changed."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

import bnfold
from bnfold import manifest
from bnfold.errors import ArtifactError
from bnfold.verify import compare
from tests.verify.networks import SHAPE, Small, built, frames


def with_another_weight(source: Path, target: Path) -> Path:
    """One element of the first convolution's weight, off by 0.01, as the onnx package writes it."""
    model = onnx.load(source)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, target)
    return target


def with_another_producer(source: Path, target: Path) -> Path:
    model = onnx.load(source)
    model.producer_name = "somebody"
    onnx.save(model, target)
    return target


def with_a_flipped_bit(source: Path, target: Path) -> Path:
    """A high bit of the mantissa of the classifier's first bias."""
    data = bytearray(source.read_bytes())
    bias = built(Small).fc.bias.detach().numpy()  # type: ignore[union-attr,operator]
    at = data.find(bias.tobytes())
    assert at > 0
    data[at + 2] ^= 0x40
    target.write_bytes(data)
    return target


def test_another_weight_is_measured_and_the_cause_is_named(onnx_path: Path, tmp_path: Path) -> None:
    bad = with_another_weight(onnx_path, tmp_path / "bad.onnx")
    module = built(Small)
    for reference in (module, onnx_path):
        comparison = compare(reference, bad, frames())
        assert not comparison.passed
        [row] = comparison.parity
        assert (row.candidate, row.passed) == ("onnx", False)
        assert row.tolerance < row.max_abs_error < 0.1
        first, second = comparison.findings
        assert (first.code, first.severity, first.where) == ("BNF-M007", "error", str(bad))
        assert first.evidence["found"] != first.evidence["recorded"]
        assert second.code == "BNF-V001"
        assert second.remedy == f"{bad} was changed after it was written: convert again"
    assert compare(module, bad, frames()).findings[1].where == "conv1"


def test_a_flipped_bit_of_a_weight(tflite_path: Path, tmp_path: Path) -> None:
    bad = with_a_flipped_bit(tflite_path, tmp_path / "bad.tflite")
    with pytest.warns(UserWarning, match=r"\[BNF-M007\] .*bad\.tflite: the file is not what bnfold wrote"):
        [row] = bnfold.verify(built(Small), bad, frames())
    assert (row.candidate, row.passed) == ("tflite", False)
    assert row.max_abs_error > row.tolerance


def test_a_change_that_changes_no_answer_is_an_error_too(onnx_path: Path, tmp_path: Path) -> None:
    same = with_another_producer(onnx_path, tmp_path / "same.onnx")
    comparison = compare(onnx_path, same, frames())
    assert [(row.max_abs_error, row.passed) for row in comparison.parity] == [(0.0, True)]
    assert [found.code for found in comparison.findings] == ["BNF-M007"]
    assert not comparison.passed
    with pytest.warns(UserWarning, match="BNF-M007"):
        assert [row.passed for row in bnfold.verify(same, onnx_path, frames())] == [True]


def test_reading_and_opening_refuse_it_as_before(onnx_path: Path, tmp_path: Path) -> None:
    bad = with_another_weight(onnx_path, tmp_path / "bad.onnx")
    for refuses in (bnfold.open, manifest.read):
        with pytest.raises(ArtifactError) as caught:
            refuses(bad)
        assert caught.value.code == "BNF-M007"
        assert "copy the file again" in caught.value.fix


def test_what_does_not_load_is_refused(onnx_path: Path, tmp_path: Path) -> None:
    data = onnx_path.read_bytes()
    (tmp_path / "half.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError) as caught:
        compare(built(Small), tmp_path / "half.onnx", frames())
    assert caught.value.code in ("BNF-M003", "BNF-M004")


def test_a_difference_between_checkpoints_is_told_as_that(tmp_path: Path) -> None:
    digests = {0: "0a" * 32, 7: "7b" * 32}
    paths = {
        seed: bnfold.convert(
            built(Small, seed=seed),
            (torch.zeros(SHAPE),),
            output=tmp_path,
            name=f"net{seed}",
            samples=frames(),
            source={"path": "best.pt", "sha256": digest, "format": "torch"},
        )
        .artifacts[0]
        .path
        for seed, digest in digests.items()
    }
    other = compare(built(Small, seed=7), paths[0], frames(), sha256=(digests[7], None))
    assert [found.code for found in other.findings] == ["BNF-V001"]
    assert other.findings[0].remedy.startswith(
        "the artifact was made from another checkpoint (sha256 0a0a0a0a0a0a…) "
        "than the one given (7b7b7b7b7b7b…)"
    )
    between = compare(paths[7], paths[0], frames())
    assert "different checkpoints (sha256 7b7b7b7b7b7b… and 0a0a0a0a0a0a…)" in between.findings[0].remedy
    same = compare(built(Small, seed=7), paths[0], frames(), sha256=(digests[0], None))
    assert "report it as a bug" in same.findings[0].remedy
    assert compare(built(Small), paths[0], frames(), sha256=(digests[7], None)).findings == []
