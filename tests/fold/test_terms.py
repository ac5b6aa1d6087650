"""A sum of affines of one value, and what stands in its way: other readers, other axes, the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.fold import fold
from tests.fold.networks import Net, draw_statistics, folded, run_time_operators, statuses

X = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))


def beside(m: Net, x: torch.Tensor) -> Any:
    y = m.conv(x)
    return torch.tanh(y + m.norm(y))


def drawn(run: Any = beside, **layers: Any) -> nn.Module:
    torch.manual_seed(0)
    return draw_statistics(Net(run, **{"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), **layers}), 3)


def test_the_layer_computes_one_plus_s() -> None:
    module = drawn()
    result = folded(module, X)
    assert result.report.batch_norms[0].rules == ["merge-terms", "conv-backward"]
    assert result.report.batch_norms[0].into == ["conv"]
    assert run_time_operators(result, folded=True) == 2  # the conv and tanh
    conv, norm = module.double().conv, module.norm
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = (conv.weight * (1 + scale)[:, None, None, None]).float()
    bias = ((1 + scale) * conv.bias + norm.bias - norm.running_mean * scale).float()
    stored = {tensor.ndim: tensor for tensor in result.module.state_dict().values()}
    assert torch.equal(stored[4], weight)
    assert torch.equal(stored[1], bias)


def test_dead_channels_keep_the_answer_of_the_layer() -> None:
    module = drawn()
    with torch.no_grad():
        module.norm.weight[1] = 0
    result = folded(module, X)
    assert statuses(result) == ["folded"]
    expected = torch.tanh(module.conv(X)[:, 1] + module.norm.bias[1])
    np.testing.assert_allclose(result.module(X)[:, 1].detach(), expected.detach(), atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_terms_that_cancel_are_left_as_they_are(shift: float) -> None:
    """y - (y + t): float64 itself has no digits of y left, so nothing could be proved."""

    def run(m: Net, x: torch.Tensor) -> Any:
        y = m.conv(x)
        return m.last(y - m.norm(y))

    module = drawn(run, last=nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        module.norm.running_var.fill_(1)
        module.norm.running_mean.zero_()
        module.norm.weight.fill_(float(np.sqrt(1 + 1e-5)) * (1 + 1e-6))
        module.norm.bias.fill_(shift)
    result = folded(module, X)
    assert "merge-terms" not in result.report.batch_norms[0].rules


def test_a_layer_that_is_called_twice_has_a_version_for_the_sum() -> None:
    def run(m: Net, x: torch.Tensor) -> Any:
        y = m.conv(x)
        return torch.tanh(y + m.norm(y)), torch.tanh(m.conv(torch.sin(x)))

    result = folded(drawn(run), X)
    assert statuses(result) == ["folded"]
    assert [copy.weight for copy in result.report.batch_norms[0].copies] == ["conv.weight"]


def test_three_terms() -> None:
    def run(m: Net, x: torch.Tensor) -> Any:
        y = m.conv(x)
        return torch.tanh(m.norm(y) + 0.5 * y - m.other(y) * m.gamma)

    module = drawn(run, other=nn.BatchNorm2d(4), gamma=nn.Parameter(torch.randn(4, 1, 1)))
    assert statuses(folded(module, X)) == ["folded", "folded"]


@pytest.mark.parametrize("size", [4, 5])
def test_affines_over_different_axes_are_no_affine_of_one(size: int) -> None:
    """The network's own factor is per position of the last axis, as long as the channels or not."""

    def run(m: Net, x: torch.Tensor) -> Any:
        y = torch.tanh(x)
        return torch.tanh(y * m.along + m.norm(y))

    along = nn.Parameter(torch.randn(size))
    module = draw_statistics(Net(run, norm=nn.BatchNorm1d(4), along=along), 3)
    result = folded(module, torch.randn(2, 4, size))
    assert "merge-terms" not in result.report.batch_norms[0].rules


def test_other_values_of_equal_shape_are_not_one_value() -> None:
    def run(m: Net, x: torch.Tensor) -> Any:
        y, z = m.conv(x), m.conv(torch.sin(x))
        return torch.tanh(z + m.norm(y))

    (entry,) = folded(drawn(run), X).report.batch_norms
    assert (entry.status, "merge-terms" in entry.rules) == ("folded", False)


def test_a_factor_that_is_no_number_stays() -> None:
    def run(m: Net, x: torch.Tensor) -> Any:
        y = m.conv(x)
        return torch.add(y, m.norm(y), alpha=float("inf"))

    result = fold(drawn(run), (X,))
    assert "merge-terms" not in result.report.batch_norms[0].rules


def test_statistics_that_cannot_be_frozen_stay_in_the_sum() -> None:
    module = drawn()
    module.norm.running_var[2] = float("nan")
    result = fold(module, (X,))
    assert statuses(result) == ["refused"]
    assert run_time_operators(result, folded=True) == run_time_operators(result, folded=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    module = drawn().to(dtype)
    result = fold(module, (X.to(dtype),))
    assert statuses(result) == ["folded"]
    answer, exact = result.module(X.to(dtype)), module.double()(X.to(dtype).double())
    assert answer.dtype == dtype
    assert (answer.double() - exact).abs().max() / exact.abs().max() < 16 * torch.finfo(dtype).eps


def test_what_half_precision_cannot_hold_stays_in_the_sum() -> None:
    module = drawn().half()
    with torch.no_grad():
        module.conv.weight.fill_(3e4)
        module.norm.float().running_var.fill_(1)
        module.norm.weight.fill_(2)
    (entry,) = fold(module, (X.half(),)).report.batch_norms
    assert "overflow float16" in str(entry.reason)
