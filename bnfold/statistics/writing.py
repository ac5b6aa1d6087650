"""Pooled moments to the running statistics of a module."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnfold.errors import StatisticsError, UsageError
from bnfold.statistics.layers import layers_of
from bnfold.statistics.moments import Moments
from bnfold.statistics.pooling import Pool
from bnfold.statistics.recalibration import LayerChange
from bnfold.statistics.targets import Target, Targets

Array = NDArray[np.float64]


def running_variance(moments: Moments) -> Array:
    """The variance that a BatchNorm is given: M2 / (n - 1), as its own running variance estimates it."""
    return moments.unbiased_variance


def check_prior(module: nn.Module, prior: float | None) -> None:
    """Refuse a prior that is none, before the long work.

    Raises:
        UsageError: it is no number of frames (BNF-U122).
        StatisticsError: the old statistics are not finite, or a variance is negative (BNF-A061).
    """
    if prior is None:
        return
    if isinstance(prior, bool) or not isinstance(prior, int | float) or not 0 <= prior < math.inf:
        raise UsageError(
            "BNF-U122",
            f"{prior!r} is no number of frames",
            where="prior",
            fix="how many frames the old statistics count for, as in prior=100; 0 replaces them",
        )
    for layer in layers_of(module):
        if layer.mean is not None and layer.variance is not None and prior:
            _check_old(layer.name, layer.mean, layer.variance)


def blended(
    old: tuple[Array, Array], new: tuple[Array, Array], prior: float, frames: int
) -> tuple[Array, Array]:
    """Mean and variance of old statistics that count for ``prior`` frames and new ones of ``frames``.

    ``mean = a old + b new`` and E[x^2] likewise, with a = N / (N + n) and b = n / (N + n); written without
    the squares, which would cancel: ``variance = a old + b new + a b (mean_old - mean_new)^2``.
    Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation" (2020).
    """
    a, b = prior / (prior + frames), frames / (prior + frames)
    mean = a * old[0] + b * new[0]
    return mean, a * old[1] + b * new[1] + a * b * np.square(old[0] - new[0])


class Writer:
    """Writes statistics into a copy of a module, and notes what changed.

    Args:
        copy: whose buffers are written.
        original: whose buffers are the old statistics.
        prior: frames that the old statistics count for.
    """

    def __init__(self, copy: nn.Module, original: nn.Module, prior: float | None) -> None:
        self._copy = copy
        self._targets, self._old = Targets(copy), Targets(original)
        self._prior = prior or None
        self.changes: list[LayerChange] = []

    def write(self, target: Target, pool: Pool) -> None:
        """The statistics of one target.

        Raises:
            StatisticsError: BNF-A061 old statistics that a prior cannot use; BNF-A062 out of range.
        """
        moments, site = pool.moments[target], pool.sites[target]
        old = _arrays(self._old.tensors(target))
        new = moments.mean, running_variance(moments)
        if self._prior is not None:
            _check_old(target.name, *old)
            new = blended(old, new, self._prior, pool.frames)
        self.put(target, new, pool.batches)
        self.changes.append(LayerChange(target.name, tuple(site.calls), moments.count, site.eps, *old, *new))

    def put(self, target: Target, statistics: tuple[Array, Array], batches: int) -> None:
        """The numbers themselves, and the count of updates beside them.

        ``num_batches_tracked`` becomes what a converged average would have at least, because nothing of an
        initial value is left; it never falls.
        """
        for tensor, values in zip(self._targets.tensors(target), statistics, strict=True):
            rounded = torch.from_numpy(values).to(tensor.dtype)
            if not bool(torch.isfinite(rounded).all()):
                channel = int(torch.nonzero(~torch.isfinite(rounded))[0])
                raise StatisticsError(
                    "BNF-A062",
                    f"{values[channel]:.3g} is beyond {str(tensor.dtype).removeprefix('torch.')}",
                    where=f"{target.name}, channel {channel}",
                    fix="recalibrate the network in float32",
                )
            with torch.no_grad():
                tensor.copy_(rounded.reshape(tensor.shape))
        updates = self._targets.updates(target)
        if updates is not None:
            least = max(batches, forgotten(self._momentum(target)))
            with torch.no_grad():
                updates.clamp_(min=least)

    def _momentum(self, target: Target) -> Any:
        holder = self._copy.get_submodule(target.mean.rpartition(".")[0])
        return getattr(holder, "momentum", None)


def forgotten(momentum: Any) -> int:
    """Updates after which an exponential average holds less than a thousandth of its initial value."""
    rate = momentum if isinstance(momentum, float) and 0 < momentum < 1 else 0.1
    return math.ceil(math.log(1e-3) / math.log1p(-rate))


def _arrays(tensors: tuple[Tensor, Tensor]) -> tuple[Array, Array]:
    mean, variance = (tensor.detach().double().cpu().numpy().reshape(-1).copy() for tensor in tensors)
    return mean, variance


def _check_old(name: str, mean: Array, variance: Array) -> None:
    wrong = ~(np.isfinite(mean) & np.isfinite(variance) & (variance >= 0))
    if wrong.any():
        channel = int(np.flatnonzero(wrong)[0])
        raise StatisticsError(
            "BNF-A061",
            f"{int(wrong.sum())} of {len(mean)} channels have no old statistics to blend with: "
            f"mean {mean[channel]:.3g}, variance {variance[channel]:.3g}",
            where=f"{name}, channel {channel}",
            fix="recalibrate without a prior: the old statistics are then thrown away",
        )
