from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bnfold.statistics.batches import Batches
from bnfold.statistics.diagnose.finiteness import Breakdown, breakdown


class Apply(nn.Module):
    """A function between two layers that keep finite what is finite."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before = nn.Identity()
        self.inner = _Inner(function)
        self.after = nn.LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.inner(self.before(x)))
        return y


class _Inner(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


X = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0], [-1.0, 5.0, 7.0]])


def found(module: nn.Module, x: Tensor = X) -> Breakdown | None:
    return breakdown(module.eval(), list(Batches([x], module)))


@pytest.mark.parametrize(
    ("function", "operator", "why", "frame", "channels"),
    [
        (torch.log, "log", "logarithm of zero", "frame 1", (1,)),
        (lambda x: x.sub(0.5).sqrt(), "sqrt", "square root of a negative: -0.5", "frame 1", (1,)),
        (lambda x: x.clone().sub_(0.5).sqrt_(), "sqrt", "square root of a negative: -0.5", "frame 1", (1,)),
        (lambda x: x.abs().rsqrt(), "rsqrt", "division by zero: 1 / sqrt(0)", "frame 1", (1,)),
        (lambda x: x / x, "div", "division by zero (1 of the divisors, some of them 0 / 0)", "frame 1", (1,)),
        (lambda x: 1 / x, "reciprocal", "division by zero (1 of the divisors)", "frame 1", (1,)),
        (lambda x: (x * 15).exp(), "exp", "overflow: inputs up to 90", "frame 1", (2,)),
        (lambda x: x.square() * 1e38, "mul", "overflow: inputs up to 9", "frame 0", (1, 2)),
        (lambda x: x.pow(-2), "pow", "division by zero: 0 to the power -2", "frame 1", (1,)),
        (lambda x: (x - 2.5).pow(0.5), "pow", "power 0.5 of a negative: -1.5", "frame 0", (0, 1)),
        (lambda x: (x / 3).acos(), "acos", "acos of 2, outside", "frame 1", (0, 2)),
    ],
)
def test_the_operator_and_the_reason_are_named(
    function: Callable[[Tensor], Tensor], operator: str, why: str, frame: str, channels: tuple[int, ...]
) -> None:
    result = found(Apply(function))
    assert result is not None
    assert (result.origin.module, result.origin.operator) == ("inner", operator)
    assert result.origin.why.startswith(why)
    assert (result.frame, result.origin.channels, result.source) == (frame, channels, "")
    assert result.chain[-1].module in ("after", "inner")


def test_finite_outputs_are_no_breakdown() -> None:
    assert found(Apply(torch.tanh)) is None
    assert found(Apply(lambda x: 1 / (1 / x))) is None  # the infinity of the zero is gone again


def test_where_an_infinity_becomes_nan_is_told() -> None:
    result = found(Apply(lambda x: (x * 30).exp() - (x * 30).exp()))
    assert result is not None
    assert result.origin.operator == "exp"
    assert ("sub", "inf - inf") in [(step.operator, step.why) for step in result.chain]


def test_a_mask_is_no_origin() -> None:
    """Every row keeps something but the second, which is masked whole."""

    def attend(x: Tensor) -> Tensor:
        return x.masked_fill(x < 5, float("-inf")).softmax(1) + x

    assert found(Apply(attend), X[2:]) is None
    result = found(Apply(attend), X)
    assert result is not None
    assert result.frame == "frame 0"
    assert result.origin.operator == "_softmax"
    assert "inf - inf" in result.origin.why


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["running_mean", "weight"])
def test_what_was_not_finite_before_is_the_source(name: str, value: float) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with torch.no_grad():
        getattr(network[1], name)[2] = value
    result = found(network)
    assert result is not None
    assert result.source == f"1.{name}"
    assert result.origin.module == "1"
    assert result.origin.channels == (2,)
    assert result.chain[-1].module == "2"


def test_a_negative_variance_is_told_by_its_batch_norm() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    network[1].running_var[1] = -0.5
    result = found(network)
    assert result is not None
    assert result.origin.module == "1"
    assert result.origin.why == "square root of a negative: running_var + eps = -0.5 in channel 1"
    assert result.origin.channels == (1,)


def test_a_gain_that_overflows_is_told_with_its_channel() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=1e-30))
    network[1].running_var[3] = 0.0
    with torch.no_grad():
        network[0].weight.mul_(1e25)
    result = found(network)
    assert result is not None
    assert result.origin.why.startswith(
        "overflow: a gain of 1e+15 (running_var 0, channel 3) on inputs up to"
    )
    assert result.origin.channels == (3,)
