"""float16 weights: which become it, what is refused, and that both formats hold the rounded values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.errors import ExportError
from bnfold.export import onnx as onnx_target
from bnfold.export import tflite as tflite_target
from bnfold.export.tflite_inspect import describe, unknown_operators
from bnfold.quantize import half_onnx, half_tflite
from bnfold.quantize.half import Halves
from tests.export.bodies import body_of, draw, run_onnx, run_tflite, set_weights


def values(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(3).standard_normal(shape) * scale).astype(np.float32)


def test_a_weight_is_rounded_to_the_nearest() -> None:
    weight = values(8, 16)
    half = Halves("here").of("w", weight)
    assert half is not None
    assert half.dtype == np.float16
    assert np.abs(half.astype(np.float32) - weight).max() <= 2**-11 * np.abs(weight).max()


@pytest.mark.parametrize("left", [values(200), values(3, 4), values(8, 16).astype(np.float64)])
def test_vectors_and_small_tensors_and_other_types_stay(left: np.ndarray) -> None:
    halves = Halves("here")
    assert halves.of("w", left) is None
    assert (halves.count, halves.findings()) == (0, [])


def test_a_weight_beyond_the_range_is_refused_with_its_number() -> None:
    weight = values(8, 16)
    weight[3, 4] = -65520.0  # rounds to infinity; 65519 would still round to 65504
    with pytest.raises(ExportError) as caught:
        Halves("ONNX").of("conv.weight", weight)
    assert caught.value.code == "BNF-E050"
    assert "65520" in str(caught.value)
    assert "conv.weight" in str(caught.value)


def test_weights_that_would_be_subnormal_stay_and_are_named() -> None:
    halves = Halves("ONNX")
    assert halves.of("tiny", values(8, 16, scale=1e-7)) is None
    # a few small ones beside large ones lose nothing that counts
    mixed = values(8, 16)
    mixed[0] *= 1e-7
    assert halves.of("mixed", mixed) is not None
    (found,) = halves.findings()
    assert (found.code, found.severity, found.where) == ("BNF-E051", "warning", "tiny")
    assert found.evidence["weights"]["tiny"]["subnormal"] == 128


class Mixed(nn.Module):
    """A convolution, a matmul with a plain parameter, a linear layer: three kinds of constants."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.mix = nn.Parameter(torch.randn(8, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)) @ self.mix)


def rounded(module: nn.Module) -> nn.Module:
    """The same network with the weights that a half file has."""
    for parameter in module.parameters():
        if parameter.dim() >= 2 and parameter.numel() >= 64:
            parameter.data = parameter.data.half().float()
    return module


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_the_file_computes_with_the_rounded_weights_in_float32(target: str) -> None:
    body = body_of(Mixed().eval(), draw(1, 3, 12, 12))
    exporter = onnx_target if target == "onnx" else tflite_target
    exported = exporter.export(*body.arguments)
    lower = half_onnx.lower if target == "onnx" else half_tflite.lower
    lowered = lower(exported.data)
    assert lowered.data == lower(exported.data).data
    assert lowered.findings == []
    frame = draw(1, 3, 12, 12, seed=9)
    run = run_onnx if target == "onnx" else run_tflite
    answer = run(replace(exported, data=lowered.data), {"x": frame.numpy()})["output"]
    with torch.no_grad():
        expected = rounded(set_weights(Mixed()))(frame).numpy()
        exact = set_weights(Mixed())(frame).numpy()
    scale = np.abs(exact).max()
    assert np.abs(answer - expected).max() <= 2e-6 * scale  # float32 arithmetic
    assert np.abs(exact - expected).max() > 2e-5 * scale  # and not with the weights as they were
    assert len(lowered.data) < len(exported.data)


def test_the_tflite_file_needs_no_operator_that_the_older_interpreter_lacks() -> None:
    exported = tflite_target.export(*body_of(Mixed().eval(), draw(1, 3, 12, 12)).arguments)
    assert unknown_operators(describe(half_tflite.lower(exported.data).data).operators) == []
