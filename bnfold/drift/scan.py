"""One permutation test for windows of several lengths at once: have the last frames left the baseline?

A change that is large shows in 8 frames, a small one needs 64. All windows end with the newest frame. The
baseline's n0 frames and the last m kept ones are pooled; without drift every order of these n0 + m frames is
equally likely. A deal is an order: its first n0 frames stand for the baseline, its last 8, 16, 32 and 64 for
the windows. Of every window and layer the three statistics of :mod:`bnfold.drift.tier1` are taken, each is
brought to mean 0 and deviation 1 over the deals, and the largest of all is the scan's. The share of deals
whose largest is at least the observed one is an exact p-value: that windows lie within each other, that
layers move together, and how many there are of both, is in it.

Ranks and the pooled covariance are made once for all windows, so that four cost little more than one. Layers
of about one size are padded to the largest of them, and are one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.scores import normal_scores
from bnfold.drift.taps import columns
from bnfold.drift.tier1 import LEAST_OTHERS, RIDGE, others

Array = NDArray[np.float32]

WINDOWS = (8, 16, 32, 64)
_AT_ONCE = 500  # deals, the observed order among them


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        p: of all windows together.
        window: the frames of the one that stands out most.
    """

    p: float
    window: int


def scan(
    recent: NDArray[np.uint8],
    baseline: NDArray[np.uint8],
    sizes: Sequence[int],
    *,
    deals: int,
    level: float = 1.0,
) -> Scan:
    """Are the last frames like the baseline?

    Args:
        recent: codes of the last kept frames in the order of time, (m, columns), m >= 8.
        baseline: codes of held-out frames, (n0, columns). Those that are among ``recent`` are left out, and
            where fewer than 8 others are there, p is 1.
        sizes: columns of each layer; one at least has some.
        deals: how often the frames are dealt anew; the deals are the same in every call. More than 499 are
            parted evenly; each part is compared by itself, and all are counted together.
        level: no more is dealt once p is known to be above this.
    """
    windows = tuple(n for n in WINDOWS if n <= len(recent))
    baseline = others(baseline, recent)
    if len(baseline) < LEAST_OTHERS:
        return Scan(1.0, windows[-1])
    pool = _Pool(np.concatenate([baseline, recent]), sizes)
    above, dealt, window = 0, 0, windows[-1]
    parts = -(-deals // (_AT_ONCE - 1))
    while dealt < deals and 1 + above <= level * (1 + deals):
        now = min(deals - dealt, -(-deals // parts))
        found = pool.statistics(_contrasts(windows, len(recent), len(baseline), now, dealt))
        apart = _standardised(found.reshape(-1, len(windows), now + 1))
        largest = apart.max(axis=(0, 1))
        above += int((largest[1:] >= largest[0] - 1e-5).sum())
        if not dealt:
            window = windows[int(apart[:, :, 0].max(axis=0).argmax())]
        dealt += now
    return Scan((1 + above) / (1 + dealt), window)


def _standardised(found: Array) -> Array:
    """Shape (statistics, windows, deals + 1): mean 0 and deviation 1 over the deals."""
    apart = found - found.mean(axis=2, keepdims=True)
    deviation = apart.std(axis=2, keepdims=True)
    # Rounding leaves dust on statistics that cannot vary, as when all channels are constant
    return np.where(deviation > 1e-6, apart / np.maximum(deviation, 1e-6), np.float32(0))


def _contrasts(windows: tuple[int, ...], recent: int, baseline: int, deals: int, begun: int) -> Array:
    """Shape (frames, windows * (deals + 1)); the first deal of each window is how the frames really lie."""
    return (_first if begun == 0 else _dealt)(windows, recent, baseline, deals, begun)


def _dealt(windows: tuple[int, ...], recent: int, baseline: int, deals: int, begun: int) -> Array:
    random = np.random.default_rng([recent, baseline, begun])
    total = baseline + recent
    orders = np.stack([np.arange(total), *(random.permutation(total) for _ in range(deals))])
    at = np.arange(deals + 1)[:, None]
    found = np.zeros((total, len(windows), deals + 1), dtype=np.float32)
    for place, window in enumerate(windows):
        found[orders[:, :baseline], place, at] = -1 / baseline
        found[orders[:, total - window :], place, at] = 1 / window
    return found.reshape(total, -1)


_first = lru_cache(maxsize=6)(_dealt)  # most looks need no more


@dataclass(frozen=True)
class _Layers:
    """Layers of about one size in the pooled frames.

    Attributes:
        scores: shape (layers, widest, frames): normal scores, 0 where a layer has fewer columns.
        inverse: (A A' + lambda)^-1 of each layer's scores A, of the smaller side.
        ridge: lambda of each layer.
        distances: shape (frames, layers): normal scores of how far out a frame is.
    """

    scores: Array
    inverse: Array
    ridge: Array
    distances: Array

    @classmethod
    def of(cls, parts: Sequence[Array]) -> _Layers:
        """Of the scores of each layer, (columns, frames)."""
        counts = np.array([len(part) for part in parts])
        total, widest = parts[0].shape[1], int(counts.max())
        scores = np.zeros((len(parts), widest, total), dtype=np.float32)
        for layer, part in enumerate(parts):
            scores[layer, : len(part)] = part
        energy = np.square(scores).sum(axis=(1, 2))
        ridge = np.maximum(RIDGE * energy / np.minimum(total - 1, counts), 1e-6).astype(np.float32)
        side = min(widest, total)
        turned = scores.transpose(0, 2, 1)
        gram = scores @ turned if widest <= total else turned @ scores
        gram[:, np.arange(side), np.arange(side)] += ridge[:, None]
        inverse = np.linalg.inv(gram)
        if widest <= total:
            far = (scores * (inverse @ scores)).sum(axis=1)
        else:
            far = 1 - ridge[:, None] * np.diagonal(inverse, axis1=1, axis2=2)
        return cls(scores, inverse, ridge, normal_scores(far.T))

    def statistics(self, contrasts: Array) -> list[Array]:
        """Shift, spread and channel, (layers, contrasts) each; see :mod:`bnfold.drift.tier1`."""
        each = self.scores @ contrasts
        if self.inverse.shape[1] == self.scores.shape[1]:
            shift = (each * (self.inverse @ each)).sum(axis=1)
        else:  # w' H w with H = I - lambda (A' A + lambda)^-1
            shift = np.square(contrasts).sum(axis=0) - self.ridge[:, None] * (
                contrasts * (self.inverse @ contrasts)
            ).sum(axis=1)
        spread = np.abs(self.distances.T @ contrasts)
        return [np.cbrt(np.maximum(shift, 0)), spread, np.abs(each).max(axis=1)]


class _Pool:
    """Pooled frames, (frames, columns): the layers by size, each padded to the next power of two at most."""

    def __init__(self, codes: NDArray[np.uint8], sizes: Sequence[int]) -> None:
        scores = normal_scores(codes).T
        alike: dict[int, list[Array]] = {}
        for part in columns(sizes):
            if part.stop > part.start:
                alike.setdefault((part.stop - part.start - 1).bit_length(), []).append(scores[part])
        self._layers = [_Layers.of(parts) for parts in alike.values()]

    def statistics(self, contrasts: Array) -> Array:
        """Shape (3 * layers, contrasts), in no order that means anything."""
        found: list[Any] = [one for layers in self._layers for one in layers.statistics(contrasts)]
        return np.concatenate(found).astype(np.float32, copy=False)


def deals_for(level: float) -> int:
    """So many that a p-value can be half of the level, and 499 at least."""
    return max(_AT_ONCE - 1, math.ceil(2 / level) - 1)
