"""How many independent frames a window of ordered frames is worth.

Frames that follow each other show the same scene, and a test that counts each as evidence alarms for certain.
Three steps, each of which only drops frames:

1. *Repeats*: a frame that differs from the last kept one by less than 5% of what two unrelated images of the
   same contrast would differ by, and whose taps differ by less than 2% of what they vary by in training in
   every layer, shows the same scene, and is dropped. The second half keeps frames whose background stands
   still while what the network looks at moves.
2. *Autocorrelation* of the taps of the kept frames: r_k = mean_i <a_i, a_{i+k}> / mean_i <a_i, a_i> over the
   normal scores of all layers. The integrated time T = 1 + 2 sum r_k, summed while pairs of lags stay
   positive (Geyer, Practical Markov chain Monte Carlo, 1992), is what one independent frame costs. Whether
   there is any autocorrelation is decided by permuting the order of the frames, so that windows without order
   keep all their frames.
3. One block is ceil(T) frames. Tier 0 compares block means, tier 1 the first frame of each block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.scores import normal_scores
from bnfold.drift.taps import columns

SAME = 0.05
"""Two images with less of the difference of unrelated ones may show the same scene."""
ALIKE = 0.02
"""And they do where their taps have less of the variance of training between them, in every layer."""
_ORDERS = 199
_LEVEL = 0.02
_LONGEST = 512  # frames that the autocorrelation is estimated from


@dataclass(frozen=True)
class Blocks:
    """Which frames are used.

    Attributes:
        frames: how many there were.
        kept: indices of the frames that show something new.
        length: kept frames per block.
        automatic: whether the length was estimated.
    """

    frames: int
    kept: NDArray[np.int64]
    length: int
    automatic: bool

    @property
    def starts(self) -> NDArray[np.int64]:
        """Indices of one frame for each whole or begun block."""
        return self.kept[:: self.length]

    @property
    def effective(self) -> int:
        """Independent frames."""
        return len(self.starts)

    def means(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Block means of per-frame values, shape (effective, ...)."""
        chosen = np.asarray(values, dtype=np.float64)[self.kept]
        edges = np.arange(0, len(chosen), self.length)
        sums = np.add.reduceat(chosen, edges, axis=0)
        counts = np.diff(np.append(edges, len(chosen)))
        return np.asarray(sums / counts.reshape(-1, *[1] * (sums.ndim - 1)))


def blocks_of(
    frames: NDArray[Any] | None, taps: NDArray[Any], sizes: Sequence[int], *, length: int | None = None
) -> Blocks:
    """The blocks of a window.

    Args:
        frames: the model inputs, first axis in order of time; None: repeats are not looked for.
        taps: shape (frames, channels), finite.
        sizes: channels of each layer.
        length: frames of one scene, where the user knows; None: estimated.
    """
    count = len(taps)
    if length is not None:
        return Blocks(count, np.arange(count), max(1, min(length, count)), False)
    kept = np.arange(count) if frames is None else distinct(frames, taps, sizes)
    time = integrated_time(taps[kept[:_LONGEST]], sizes)
    return Blocks(count, kept, max(1, math.ceil(time)), True)


def distinct(
    frames: NDArray[Any], taps: NDArray[Any] | None = None, sizes: Sequence[int] = ()
) -> NDArray[np.int64]:
    """Indices of the frames that differ from the last kept one, in their pixels or in their taps."""
    flat = np.asarray(frames).reshape(len(frames), -1)
    kept: list[int] = []
    for index in range(len(flat)):
        if (
            kept
            and same_image(flat[kept[-1]], flat[index])
            and (taps is None or same_taps(taps[kept[-1]], taps[index], sizes))
        ):
            continue
        kept.append(index)
    return np.array(kept, dtype=np.int64)


def same_image(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two images of the same shape may show the same scene."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(np.square(a - b).mean()) <= SAME * float(a.var() + b.var())


def same_taps(one: NDArray[Any], other: NDArray[Any], sizes: Sequence[int]) -> bool:
    """Whether the standardised taps of two frames are alike in every layer."""
    half = np.square(np.asarray(one, dtype=np.float64) - other) / 2
    return all(half[part].mean() <= ALIKE for part in columns(sizes) if part.stop > part.start)


def integrated_time(taps: NDArray[Any], sizes: Sequence[int], *, change: bool = False) -> float:
    """Frames per independent frame, at least 1; 1 where the order of the frames tells nothing.

    Args:
        taps: shape (frames, channels).
        sizes: channels of each layer.
        change: allow for one change of the mean within the window, wherever it explains most.
    """
    count = len(taps)
    if count < 4:
        return 1.0
    gram = gram_of(taps, sizes)
    lags = min(8, count // 4)
    weights = 1 / np.arange(1, lags + 1)
    random = np.random.default_rng(0)

    def ordered(order: NDArray[np.int64]) -> NDArray[np.float64]:
        found = gram[np.ix_(order, order)]
        return without_change(found) if change else found

    def score(products: NDArray[np.float64]) -> float:
        scale = float(np.trace(products))
        lagged = sum(w * np.diagonal(products, k).mean() for k, w in enumerate(weights, start=1))
        return float(lagged) / scale if scale > 0 else 0.0

    in_time = ordered(np.arange(count))
    observed = score(in_time)
    shuffled = [score(ordered(random.permutation(count))) for _ in range(_ORDERS)]
    if (1 + sum(other >= observed for other in shuffled)) / (1 + _ORDERS) > _LEVEL:
        return 1.0
    scale = float(np.trace(in_time)) / count
    bias = (2 if change else 1) / count
    correlations = [float(np.diagonal(in_time, k).mean()) / scale + bias for k in range(1, count // 2 + 1)]
    total = 1.0
    for first, second in zip(correlations[::2], [*correlations[1::2], 0.0], strict=False):
        if first + second <= 0:
            break
        total += 2 * (first + second)
    return max(1.0, min(total, float(count)))


def without_change(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inner products of frames in order, once the means before and after the best split are taken out."""
    count = len(gram)
    sums = np.zeros((count + 1, count + 1))
    sums[1:, 1:] = gram.cumsum(axis=0).cumsum(axis=1)
    at = np.arange(4, count) if count >= 8 else np.array([count // 2])
    after = sums[-1, -1] - sums[at, -1] - sums[-1, at] + sums[at, at]
    split = int(at[np.argmax(sums[at, at] / at + after / (count - at))])
    found = gram.copy()
    for part in (slice(0, split), slice(split, count)):
        found[part] -= found[part].mean(axis=0, keepdims=True)
        found[:, part] -= found[:, part].mean(axis=1, keepdims=True)
    return found


def gram_of(taps: NDArray[Any], sizes: Sequence[int]) -> NDArray[np.float64]:
    """Shape (frames, frames): inner products of normal scores; layers weigh the same, mean diagonal 1."""
    scores = normal_scores(taps)
    total = np.zeros((len(taps), len(taps)))
    for part in columns(sizes):
        layer = scores[:, part]
        if layer.size:
            product = (layer @ layer.T).astype(np.float64)
            trace = float(np.trace(product))
            if trace > 0:
                total += product * (len(taps) / trace)
    mean = float(np.trace(total)) / max(len(taps), 1)
    return total / mean if mean > 0 else total
