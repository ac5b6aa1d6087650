"""What agreement counts, on numbers that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnfold.quantize.gate import Gate
from bnfold.signature import TensorSpec
from bnfold.verify.agreement import Agreement, Tally, is_scores
from bnfold.verify.findings import disagrees

GATE = Gate("int8", tolerance=0.25, agreeing=0.05, min_agreement=0.7)
SCORES = TensorSpec("y", (1, 3), "float32")


def counted(
    pairs: list[tuple[list[float], list[float]]], spec: TensorSpec = SCORES, *, ties: bool = False
) -> Agreement:
    tally = Tally(spec, GATE, 10.0, scores=is_scores(spec, 1, None), ties=ties)
    for ours, theirs in pairs:
        tally.add(np.array([ours], spec.dtype), np.array([theirs], spec.dtype))
    return tally.result("onnx", "onnxruntime 1", "clean")


def test_top_1_counts_frames() -> None:
    got = counted([([1, 2, 0], [0, 3, 0]), ([4, 2, 0], [5, 0, 0]), ([1, 0, 0], [0, 1, 0])])
    assert (got.kind, got.counted, got.share, got.passed) == ("top-1", 3, 2 / 3, False)
    assert got.to_json()["agreement"] == 2 / 3


def test_signal_to_noise_and_cosine() -> None:
    got = counted([([3, 4, 0], [3, 0, 0]), ([0, 0, 1], [0, 0, 1])])
    assert got.snr_db == pytest.approx(10 * math.log10(10 / 16))
    assert got.cosine == pytest.approx(10 / math.sqrt(26 * 10))
    same = counted([([1, 2, 3], [1, 2, 3])])
    assert (same.snr_db, same.cosine) == (math.inf, pytest.approx(1))
    assert same.to_json()["snr_db"] is None


def test_values_agree_within_a_share_of_the_range() -> None:
    spec = TensorSpec("y", (1, 2), "float32")  # two numbers without labels are no classes
    got = counted([([1.5, 0], [1, 0]), ([1.51, 0], [1, 0])], spec)  # 5% of 10 is 0.5
    assert (got.kind, got.counted, got.share, got.passed) == ("values", 4, 0.75, True)


def test_integers_must_be_equal() -> None:
    got = counted([([1, 2, 3], [1, 2, 4])], TensorSpec("y", (1, 3), "int64"))
    assert (got.kind, got.share) == ("values", 2 / 3)


def test_large_integers_must_be_equal_too() -> None:
    spec = TensorSpec("y", (1, 2), "int64")
    tally = Tally(spec, GATE, 0.0, scores=False, ties=False)
    tally.add(np.array([[2**60, 2**60 + 1]]), np.array([[2**60, 2**60]]))  # float64 has them equal
    assert tally.result("onnx", "", "clean").share == 0.5


def test_near_ties_of_random_frames_are_left_out_and_counted() -> None:
    pairs = [([1, 0, 0], [0.0, 0.9, 0]), ([0, 9, 0], [0, 9, 0])]
    assert counted(pairs).share == 0.5
    got = counted(pairs, ties=True)
    assert (got.counted, got.share, got.ties) == (1, 1.0, 1)


def test_where_every_frame_is_a_near_tie_nothing_is_shown() -> None:
    got = counted([([1, 0, 0], [0.0, 0.9, 0]), ([0, 1, 0], [0, 1, 0])], ties=True)
    assert (got.counted, got.share, got.passed, got.ties) == (0, 0.0, False, 2)
    (found,) = disagrees(got, [])
    assert "none of the 2 random ones has a clear one" in found.message


def test_what_is_not_finite_or_of_another_shape_agrees_nowhere() -> None:
    assert counted([([math.nan, 2, 0], [0, 3, 0])]).share == 0
    tally = Tally(SCORES, GATE, 10.0, scores=True, ties=False)
    tally.add(np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32))
    assert tally.result("onnx", "", "clean").share == 0


def test_which_outputs_are_scores() -> None:
    def scores(shape: tuple[int | None, ...], dtype: str = "float32", judged: str | None = None) -> bool:
        return is_scores(TensorSpec("y", shape, dtype), 1, judged)

    assert scores((1, 3))
    assert scores((None, 10))
    assert scores((1, 2), judged="y")
    assert not scores((1, 2))
    assert not scores((1, 3, 3))
    assert not scores((2, 3))
    assert not scores((1, 3), "int64")


def test_the_gate_of_a_precision() -> None:
    assert Gate.of("fp16", calibrated=True).min_agreement == 0.99
    assert Gate.of("int8", calibrated=False).min_agreement == 0.98
    assert Gate.of("int8", calibrated=False, min_agreement=0.5).min_agreement == 0.5
    gate = Gate.of("int8", calibrated=True)
    assert Gate.recorded({"precision": "int8", "quantisation": gate.to_json()}) == gate
    assert Gate.recorded({"precision": "fp32"}) is None
