from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.errors import StatisticsError, UsageError
from bnfold.statistics.debias import debias


def trained(updates: int, momentum: float | None = 0.1, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Updated with one batch again and again: the average without its start is that batch's."""
    module = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum)).to(dtype).train()
    generator = torch.Generator().manual_seed(0)
    batch = 3 + 2 * torch.randn(6, 3, 5, 5, generator=generator, dtype=torch.float64).to(dtype)
    for _ in range(updates):
        module(batch)
    module.mean, module.variance = batch.mean((0, 2, 3)), batch.var((0, 2, 3))  # type: ignore[assignment]
    return module


@pytest.mark.parametrize("updates", [1, 3, 22, 400])
@pytest.mark.parametrize("momentum", [0.1, 0.01, 0.9, 1.0])
def test_it_is_exact_at_fixed_weights(updates: int, momentum: float) -> None:
    module = trained(updates, momentum)
    result = debias(module)
    np.testing.assert_allclose(result.module[0].running_mean, module.mean, rtol=1e-11)
    np.testing.assert_allclose(result.module[0].running_var, module.variance, rtol=1e-11)
    assert module[0].training
    assert module[0].num_batches_tracked == updates
    assert (1 - momentum) ** int(result.module[0].num_batches_tracked) <= 1.1e-3
    (finding,) = result.findings
    assert finding.evidence["weights"]["0"] == pytest.approx((1 - momentum) ** updates)
    assert result.method == "debiased"


def test_a_cumulative_average_has_nothing_to_correct() -> None:
    module = trained(4, None)
    result = debias(module)
    assert torch.equal(result.module[0].running_var, module[0].running_var)
    assert list(result.not_recalibrated) == ["0"]


def test_what_cannot_be_corrected_is_refused() -> None:
    never = trained(0)
    dead = trained(5)
    dead[0].running_var[1] = (1 - 0.1) ** 5 / 2
    poisoned = trained(5)
    poisoned[0].running_mean[2] = math.nan
    uncounted = trained(5)
    uncounted[0].num_batches_tracked = None
    for module, words, where in (
        (never, "never updated", "0"),
        (dead, "1 of 3 variances would be", "0.running_var[1]"),
        (poisoned, "not finite", "0"),
        (uncounted, "does not say how often", "0"),
    ):
        with pytest.raises(StatisticsError) as caught:
            debias(module)
        assert caught.value.code == "BNF-A069"
        assert words in caught.value.what
        assert caught.value.where == where
    with pytest.raises(UsageError):
        debias(nn.Linear(2, 2))
    with pytest.raises(UsageError):
        debias({})  # type: ignore[arg-type]
