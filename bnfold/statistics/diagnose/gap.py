"""Do the stored statistics describe what a BatchNorm reads, beyond what chance and held-out frames explain?

Per channel, with the data's own deviation as the unit:

    mean gap   (stored mean - mean of the frames) / sqrt(variance of the frames + eps)
    scale gap  log of the ratio of the deviations, log(sqrt(stored variance + eps) / sqrt(variance + eps))

The standard error comes from the spread of the frames (`frames.FrameStatistics`): of these frames, and of
those behind the running average, which with momentum m over batches of B remembers about B (2 - m) / m of
them. A channel has parted where the gap exceeds the margin by more than the standard error times the quantile
for all channels together: both significant and large. Where many channels of a layer are beyond the margin
and beyond chance, though none beyond both together, they have parted as well.

In train mode the layers before have normalised with the batch, so a gap is the layer's own; in eval mode it
includes what the layers before it did.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bnfold.statistics.diagnose.passes import Pass, Reading
from bnfold.statistics.layers import MEAN, VARIANCE

Array = NDArray[np.float64]

MARGIN = 0.25
"""A quarter of a deviation; sound networks stay below it on held-out frames (docs/diagnose.md)."""

ALPHA = 0.01
"""The chance that a sound network is accused at all, over all channels of all layers."""

MIN_FRAMES = 16
"""Fewer tell too little of the spread of the frames."""

_MANY, _SHARE = 4, 1 / 8
# On 16 to 1,000 held-out frames at most 6 % of a sound layer's channels are beyond margin and chance.

TRAIN_BATCH = 32
"""Frames in a training batch, where nobody says it: a checkpoint does not."""


@dataclass(frozen=True)
class Gap:
    """One BatchNorm call against the frames; arrays of shape (channels,).

    Attributes:
        name: of the call.
        mean, scale: the gaps, signed; NaN where the stored value or the frames are not finite.
        mean_error, scale_error: their standard errors.
        frames: of the data.
        suspect: by channel, whether either is beyond the margin, and beyond chance.
        parted: by channel, whether either is beyond the margin by more than chance; or suspect, where an
            eighth of the layer's channels are.
        certain: by channel, by how much at least: the larger gap less the quantile times its error.
    """

    name: str
    mean: Array
    scale: Array
    mean_error: Array
    scale_error: Array
    frames: int
    suspect: NDArray[np.bool_]
    parted: NDArray[np.bool_]
    certain: Array

    @property
    def channels(self) -> list[int]:
        """The channels that are off, in order."""
        return [int(channel) for channel in np.flatnonzero(self.suspect | self.parted)]

    @property
    def tensor(self) -> str:
        """Which of the two stored tensors is further off in the worst channel."""
        channel = self.worst
        mean, scale = (np.nan_to_num(np.abs(gap[channel])) for gap in (self.mean, self.scale))
        return MEAN if mean >= scale else VARIANCE

    @property
    def worst(self) -> int:
        """The channel whose gap is surest."""
        return int(np.argmax(self.certain)) if len(self.certain) else 0

    @property
    def largest(self) -> float:
        """The largest over channels of both gaps together; NaN where there is none."""
        squares = self._squares()
        return float(np.sqrt(squares.max())) if len(squares) else math.nan

    @property
    def typical(self) -> float:
        """The root mean square over channels of both gaps together; NaN where there is none."""
        squares = self._squares()
        return float(np.sqrt(squares.mean())) if len(squares) else math.nan

    def _squares(self) -> Array:
        squares = np.square(self.mean) + np.square(self.scale)
        return np.asarray(squares[np.isfinite(squares)])


def gaps(seen: Pass, *, train_batch: int = TRAIN_BATCH, margin: float = MARGIN) -> dict[str, Gap]:
    """The gap of every call that has stored statistics, in execution order.

    Args:
        seen: a pass, in either mode.
        train_batch: frames in a batch of the training.
        margin: what is let pass, in deviations.
    """
    stored = [r for r in seen.readings.values() if r.mean is not None and r.variance is not None]
    tests = 2 * sum(reading.channels for reading in stored)
    limit = _limit(tests, seen.frames)
    return {reading.name: _gap(reading, train_batch, margin, limit) for reading in stored}


def quantile(tail: float, freedom: int) -> float:
    """The upper quantile of Student's t.

    Wallace's approximation (1959), inverted: within 1 % for 15 degrees of freedom or more and tails down to
    1e-6.
    """
    z = NormalDist().inv_cdf(1 - tail) if tail > 1e-16 else 8.2
    if freedom < 1:
        return math.inf
    stretched = z * (8 * freedom + 3) / (8 * freedom + 1)
    return math.sqrt(freedom * math.expm1(stretched * stretched / freedom))


def _gap(reading: Reading, train_batch: int, margin: float, limit: float) -> Gap:
    assert reading.mean is not None
    assert reading.variance is not None
    seen = reading.input
    remembered = train_batch * (2 - reading.momentum) / max(reading.momentum, 1e-3)
    chance = 1 / max(seen.frames, 1) + 1 / remembered
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        spread = seen.variance + reading.eps
        mean = (reading.mean - seen.mean) / np.sqrt(spread)
        scale = np.log((reading.variance + reading.eps) / spread) / 2
        mean_error = np.sqrt(seen.between * chance / spread)
        scale_error = np.sqrt(seen.variance_spread * chance) / spread / 2
    return _judged(reading.name, (mean, scale), (mean_error, scale_error), seen.frames, margin, limit)


def between(
    here: Pass, there: Pass, pairs: Iterable[tuple[str, str]], *, margin: float = MARGIN
) -> dict[str, Gap]:
    """How far what a call reads in one pass is from what a call reads in another: a test of two samples.

    Args:
        here, there: passes; the gaps are ``there`` less ``here``, in the deviations of ``here``.
        pairs: a call of each.
        margin: what is let pass.
    """
    chosen = [(here.readings[a], there.readings[b]) for a, b in pairs]
    tests = 2 * sum(reading.channels for reading, _ in chosen)
    fewer = min(here.frames, there.frames)
    limit = _limit(tests, fewer)
    return {other.name: _apart(reading, other, fewer, margin, limit) for reading, other in chosen}


def _apart(reading: Reading, other: Reading, frames: int, margin: float, limit: float) -> Gap:
    one, two = reading.input, other.input
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        spread, spread_two = one.variance + reading.eps, two.variance + other.eps
        mean = (two.mean - one.mean) / np.sqrt(spread)
        scale = np.log(spread_two / spread) / 2
        mean_error = np.sqrt((one.between / max(one.frames, 1) + two.between / max(two.frames, 1)) / spread)
        scale_error = np.sqrt(
            one.variance_spread / max(one.frames, 1) / np.square(spread)
            + two.variance_spread / max(two.frames, 1) / np.square(spread_two)
        )
    return _judged(other.name, (mean, scale), (mean_error, scale_error / 2), frames, margin, limit)


def _judged(
    name: str, gap: tuple[Array, Array], error: tuple[Array, Array], frames: int, margin: float, limit: float
) -> Gap:
    size = np.abs(np.stack(gap))
    chance = limit * np.stack(error)
    with np.errstate(invalid="ignore"):
        sure = np.fmax(*(size - chance))
        suspect = np.asarray(((size > margin) & (size > chance)).any(axis=0))
    sure = np.where(np.isfinite(sure), sure, -np.inf)
    parted = sure > margin
    if suspect.sum() >= _MANY and suspect.mean() >= _SHARE:
        parted |= suspect
    return Gap(name, *gap, *error, frames, suspect, parted, sure)


def _limit(tests: int, frames: int) -> float:
    """The quantile for so many tests together; a small sample is unsure of its own spread, too."""
    return quantile(ALPHA / (2 * max(tests, 1)), frames - 1) * (1 + 8 / max(frames, 1))
