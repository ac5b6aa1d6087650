"""A hint at label shift: the network gives other classes than before, while early layers see nothing new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DEALS = 999


def histogram(scores: NDArray[Any]) -> tuple[int, ...]:
    """How many frames have their largest score in each class."""
    return tuple(int(n) for n in np.bincount(scores.argmax(axis=1), minlength=scores.shape[1]))


def moved(now: Sequence[int], before: Sequence[int]) -> tuple[float, float]:
    """Total variation distance of two histograms, and the permutation p-value of their chi-square."""
    table = np.array([now, before], dtype=np.float64)
    totals = table.sum(axis=1)
    distance = float(np.abs(table[0] / totals[0] - table[1] / totals[1]).sum() / 2)
    pooled = np.repeat(np.arange(table.shape[1]), table.sum(axis=0).astype(int))
    random = np.random.default_rng(0)
    count = int(totals[0])
    observed = _chi_square(table[0], table.sum(axis=0), count, len(pooled))
    hits = 0
    for _ in range(_DEALS):
        dealt = np.bincount(random.permutation(pooled)[:count], minlength=table.shape[1])
        hits += _chi_square(dealt, table.sum(axis=0), count, len(pooled)) >= observed - 1e-9
    return distance, (1 + hits) / (1 + _DEALS)


def _chi_square(part: NDArray[Any], total: NDArray[np.float64], count: int, frames: int) -> float:
    expected = total * (count / frames)
    used = expected > 0
    return float((np.square(part[used] - expected[used]) / expected[used]).sum())
