"""Tier 1: do frames look like held-out frames? A permutation test over the frames themselves.

If the window's frames and the baseline's come from one distribution, every way to deal the pooled N frames
into a group of the window's size and the rest is equally likely. So the share of deals whose statistic is at
least the observed one is an exact p-value, whatever the tails, the dependence between channels and their
number. The statistic is the largest over all layers of three, each brought to mean 0 and deviation 1 over the
deals; the largest over a family gives p-values that hold for the family (Westfall and Young, 1993).

With the normal scores A (N frames, C channels) of one layer, its Gram matrix K = A A' / C, and w the contrast
of a deal (1/n for the window's frames, -1/n0 for the others):

- *shift*: w' H w, H = K (K + lambda I)^-1: the distance of the two means, measured in the pooled covariance
  with a ridge (regularised Hotelling; Chen, Paul, Prentice and Wang, 2011). lambda is 0.3 of the mean
  eigenvalue. The cube root brings it near a normal (Wilson and Hilferty, 1931).
- *spread*: |w' h| with h the normal scores of diag H, a frame's distance from the centre: noise, or variety
  that was never seen.
- *channel*: the largest |A' w|: one channel alone.

K is N x N however many channels there are, so that 17,000 channels and 1,000 deals are a few matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.distributions import normal_quantile
from bnfold.drift.scores import normal_scores
from bnfold.drift.spectrum import detectable, spectrum
from bnfold.drift.taps import columns
from bnfold.drift.tier0 import LayerTest

Array = NDArray[np.float64]

ALPHA = 0.05
MARGIN = 0.05
DEALS = 999
RIDGE = 0.3
LEAST_OTHERS = 8
_CLIP = 3.0
_TESTS = ("shift", "spread", "channel")


def others(baseline: NDArray[Any], window: NDArray[Any]) -> NDArray[Any]:
    """The baseline's frames that are not in the window, too.

    A frame that is in the pool twice lies closer to the others than one that is there once, in many
    dimensions: the baseline's own frames would seem to vary less than the baseline.
    """
    here = {frame.tobytes() for frame in window}
    return baseline[[frame.tobytes() not in here for frame in baseline]]


def judge(
    window: NDArray[np.floating],
    baseline: NDArray[np.floating],
    sizes: Sequence[int],
    *,
    alpha: float = ALPHA,
    margin: float = MARGIN,
    deals: int = DEALS,
) -> tuple[float, list[LayerTest]]:
    """The p-value of the whole, and one result for each layer.

    Args:
        window, baseline: standardised taps of independent frames, (n, channels) and (n0, channels). Frames of
            the baseline that are in the window, too, are left out of it, where 8 others are there.
        sizes: channels of each layer.
        alpha: the rate of false alarms, over all layers and tests.
        margin: the effect below which a layer is not blamed, in deviations.
        deals: how often the frames are dealt anew. The deals are the same in every call: so is the verdict.
    """
    strangers = others(baseline, window)
    if len(strangers) >= LEAST_OTHERS:
        baseline = strangers
    pooled = np.concatenate([baseline, window]).astype(np.float32)
    dealt = _deal(pooled, len(window), sizes, deals)
    order = np.sort(dealt.largest)
    critical = float(order[math.ceil((1 - alpha) * len(order)) - 1])
    results = []
    for index, part in enumerate(columns(sizes)):
        observed = dealt.statistics[index, :, 0]
        p = _share(order, float(observed.max()))
        results.append(
            _result(
                pooled[:, part], len(baseline), observed, p, critical, dealt.loudest[index], alpha, margin
            )
        )
    return _share(order, float(dealt.largest[0])), results


def _share(order: Array, observed: float) -> float:
    """The share of deals whose largest statistic is at least this."""
    return float(len(order) - np.searchsorted(order, observed - 1e-6)) / len(order)


@dataclass(frozen=True)
class _Dealt:
    """The statistics of every deal; the first is how the frames really lie.

    Attributes:
        statistics: shape (layers, tests, deals + 1).
        loudest: of each layer, the observed contrast of every channel.
    """

    statistics: Array
    loudest: list[NDArray[np.float32]]

    @property
    def largest(self) -> Array:
        found: Array = self.statistics.max(axis=(0, 1))
        return found


def _deal(pooled: NDArray[Any], n: int, sizes: Sequence[int], deals: int) -> _Dealt:
    """Of pooled frames, the last ``n`` of which are the window's."""
    contrasts = _contrasts(n, len(pooled) - n, deals)
    statistics = np.full((len(sizes), len(_TESTS), deals + 1), -np.inf)
    loudest = [np.empty(0, dtype=np.float32)] * len(sizes)
    scores = normal_scores(pooled)
    parts = columns(sizes)
    live = [index for index, part in enumerate(parts) if part.stop > part.start]
    distances = np.zeros((len(pooled), len(live)), dtype=np.float32)
    each = scores.T @ contrasts
    for place, index in enumerate(live):
        part = parts[index]
        squares, distances[:, place] = _distances(scores[:, part], contrasts, each[part])
        statistics[index, 0] = np.cbrt(squares)
        statistics[index, 2] = np.abs(each[part]).max(axis=0)
        loudest[index] = each[part, 0]
    if live:
        statistics[live, 1] = np.abs(normal_scores(distances).T @ contrasts)
        statistics[live] = _standardised(statistics[live])
    return _Dealt(statistics, loudest)


def _standardised(statistics: Array) -> Array:
    """Mean 0 and deviation 1 over the deals."""
    apart = statistics - statistics.mean(axis=2, keepdims=True)
    deviation = apart.std(axis=2, keepdims=True)
    # Rounding leaves dust on statistics that cannot vary, as when all channels are constant
    return np.where(deviation > 1e-9, apart / np.maximum(deviation, 1e-9), 0)


@lru_cache(maxsize=4)
def _contrasts(n: int, n0: int, deals: int) -> NDArray[np.float32]:
    """Shape (frames, deals + 1); the first column is how the frames really lie."""
    random = np.random.default_rng([n, n0])
    total = n + n0
    found = np.full((total, deals + 1), -1 / n0, dtype=np.float32)
    found[n0:, 0] = 1 / n
    for deal in range(1, deals + 1):
        found[random.permutation(total)[:n], deal] = 1 / n
    return found


def _distances(
    scores: NDArray[np.float32], contrasts: NDArray[np.float32], each: NDArray[np.float32]
) -> tuple[Array, Array]:
    """w' H w of every contrast w, and the diagonal of H = K (K + lambda I)^-1, with K = A A' / C.

    No spectrum is needed: H = I - lambda (K + lambda I)^-1, and where there are fewer channels than frames,
    it is A (A' A + C lambda I)^-1 A'. One inverse of the smaller side is several times faster than an
    eigendecomposition of K. ``each`` is A' w.
    """
    total, channels = scores.shape
    ridge = RIDGE * float(np.square(scores, dtype=np.float64).sum()) / channels / min(total - 1, channels)
    if not ridge > 0:
        return np.zeros(contrasts.shape[1]), np.zeros(total)
    if channels < total:
        gram = (scores.T @ scores).astype(np.float64)
        gram[np.diag_indices(channels)] += channels * ridge
        inverse = np.linalg.inv(gram).astype(np.float32)
        squares = (each * (inverse @ each)).sum(axis=0, dtype=np.float64)
        return np.maximum(squares, 0), (scores * (scores @ inverse)).sum(axis=1, dtype=np.float64)
    gram = (scores @ scores.T / channels).astype(np.float64)
    gram[np.diag_indices(total)] += ridge
    smooth = -ridge * np.linalg.inv(gram)
    smooth[np.diag_indices(total)] += 1
    seen = smooth.astype(np.float32) @ contrasts
    seen *= contrasts
    return np.maximum(seen.sum(axis=0, dtype=np.float64), 0), np.diagonal(smooth)


def _result(
    pooled: NDArray[np.float32],
    n0: int,
    observed: Array,
    p: float,
    critical: float,
    channel: NDArray[np.float32],
    alpha: float,
    margin: float,
) -> LayerTest:
    """One layer's effects in deviations, next to what its tests say."""
    channels = pooled.shape[1]
    if not channels:
        return LayerTest(0.0, margin, False, (), 0.0, math.inf, np.zeros(0), (), 1.0)
    clipped = np.clip(pooled, -_CLIP, _CLIP).astype(np.float64)
    before, now = clipped[:n0], clipped[n0:]
    n = len(now)
    noise = 1 / n + 1 / n0
    shifts = now.mean(axis=0) - before.mean(axis=0)
    shape = spectrum(np.concatenate([before - before.mean(axis=0), now - now.mean(axis=0)]))
    effect = math.sqrt(max(float(np.square(shifts).mean()) - shape.trace * noise, 0.0))
    # Under dealing, sqrt(noise) times a score's deviation is a channel's standard error
    standard = np.abs(channel) / math.sqrt(noise)
    limit = normal_quantile(1 - alpha / (2 * channels))
    found = np.flatnonzero((standard > limit) & (np.abs(shifts) > margin))
    found = found[np.argsort(-np.abs(shifts[found]))]
    by = tuple(name for name, value in zip(_TESTS, observed, strict=True) if value > critical)
    worth = effect > margin or "spread" in by or bool(len(found))
    threshold = shape.trace * noise + critical * math.sqrt(2 * shape.square) * noise + margin * margin
    return LayerTest(
        effect, margin, p <= alpha and worth, by, float(observed.max()) / max(critical, 1e-9),
        detectable(threshold, shape, noise), shifts, tuple(int(c) for c in found), p,
    )  # fmt: skip
