"""The moments of many calls side by side in one array: merged in a few operations, however many calls.

Nothing is allocated here while a batch is on its way: what lives on between two activations keeps the
allocator from giving the next one the memory that the last one has left and that the cache still holds. The
network itself then takes up to a half longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnfold.statistics.moments import Moments
from bnfold.statistics.reduction import BatchMoments
from bnfold.statistics.targets import Target

Array = NDArray[np.float64]
_TOGETHER = 16  # batches that are merged at once


@dataclass(frozen=True)
class Packed:
    """`Moments` of several calls.

    Attributes:
        counts: by call, values per channel.
        widths: by call, channels.
        both: shape (2, channels of all calls): the means, and below them the variances M2 / n.
    """

    counts: list[int]
    widths: list[int]
    both: Array

    @classmethod
    def of(cls, moments: Sequence[BatchMoments]) -> Packed:
        """Brought to the CPU in one go."""
        if not moments:
            return cls([], [], np.empty((2, 0)))
        both = torch.cat([one.both for one in moments], dim=1).cpu().numpy()
        return cls([one.count for one in moments], [one.both.shape[1] for one in moments], both)

    def fits(self, limits: Array, least: float = 0.0) -> bool:
        """Whether all are numbers within these limits, of the same shape as `both`; ``least`` is the smallest
        of them, for a quick answer."""
        values = self.both.reshape(-1)
        if math.sqrt(values @ values) <= least:  # none is then beyond it
            return True
        return bool((np.abs(self.both) <= limits).all())  # NaN compares as False

    def split(self) -> list[Moments]:
        """One by one."""
        ends = np.cumsum(self.widths)
        return [
            Moments(count, mean.copy(), variance * count)
            for count, width, end in zip(self.counts, self.widths, ends, strict=True)
            for mean, variance in [self.both[:, end - width : end]]
        ]


class Step(NamedTuple):
    """One call on the way through a network.

    Attributes:
        mean, variance: the statistics that it reads.
        target: what it pools into.
        room: for its moments.
    """

    mean: Tensor
    variance: Tensor
    target: Target
    room: BatchMoments


class Gathered:
    """The moments of the calls of one batch, while it runs; the next batch takes the same memory."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._calls = 0
        self._joint: _Joint | None = None  # the memory of all steps, once it is known how many there are

    def __len__(self) -> int:
        return self._calls

    @property
    def targets(self) -> tuple[Target, ...]:
        """Of the calls so far."""
        if self._joint is not None and self._calls == len(self._steps):
            return self._joint.targets
        return tuple(step.target for step in self._steps[: self._calls])

    def clear(self) -> None:
        """Before another batch."""
        self._calls = 0

    def again(self, mean: Tensor | None, variance: Tensor | None) -> Step | None:
        """One more call, where the last batch came by with the same statistics at this place."""
        if self._calls < len(self._steps):
            step = self._steps[self._calls]
            if step.mean is mean and step.variance is variance:
                self._calls += 1
                return step
        return None

    def room(self, mean: Tensor, variance: Tensor, target: Target, values: Tensor) -> BatchMoments:
        """For the moments of one more call.

        Args:
            mean, variance: that it reads, in the dtype that it takes statistics in.
            target: what it pools into; calls with the same one have as many channels, on one device.
            values: its input, shape (frames, channels, ...).
        """
        place = self._calls
        self._calls += 1
        if place < len(self._steps) and self._steps[place].target == target:
            return self._steps[place].room
        step = Step(mean, variance, target, BatchMoments.room(values, mean.dtype))
        self._steps[place:] = [step]
        self._joint = None
        return step.room

    def packed(self) -> Packed:
        """All of them."""
        if self._calls != len(self._steps) or not self._steps:
            return Packed.of([step.room for step in self._steps[: self._calls]])
        if self._joint is None:
            self._joint = _Joint(self._steps)
            self._steps = self._joint.steps
        return self._joint.packed()


class _Joint:
    """The steps of a batch, with memory that lies together: all is brought to the CPU as one array."""

    def __init__(self, steps: Sequence[Step]) -> None:
        rooms = [step.room for step in steps]
        self._both = torch.cat([room.both for room in rooms], dim=1)
        self._widths = [room.both.shape[1] for room in rooms]
        parts = torch.split(self._both, self._widths, dim=1)
        self.steps = [
            step._replace(room=BatchMoments(part, step.room.rounded, step.room.count))
            for part, step in zip(parts, steps, strict=True)
        ]
        self.targets = tuple(step.target for step in steps)

    def packed(self) -> Packed:
        both = self._both.cpu().numpy().copy()  # the next batch writes over the memory
        return Packed([step.room.count for step in self.steps], self._widths, both)


class Total:
    """The moments of the same calls over any number of batches.

    ``mean = sum n_i mean_i / n``, ``M2 = sum n_i (variance_i + (mean_i - mean)^2)``: as in
    `bnfold.statistics.moments`, nothing is subtracted that is as large as the mean.
    """

    def __init__(self, like: Packed) -> None:
        self._widths = like.widths
        self._counts: list[list[int]] = []
        self._rows = np.empty((_TOGETHER, *like.both.shape))

    def add(self, batch: Packed) -> None:
        """One more batch."""
        if len(self._counts) == _TOGETHER:
            self._merge()
        self._rows[len(self._counts)] = batch.both
        self._counts.append(batch.counts)

    def packed(self) -> Packed:
        """All of them."""
        self._merge()
        return Packed(self._counts[0], self._widths, self._rows[0].copy())

    def _merge(self) -> None:
        """All rows into the first."""
        counts = np.array(self._counts)
        total = counts.sum(axis=0)
        shares = np.repeat(counts / np.maximum(total, 1), self._widths, axis=1)
        means, variances = self._rows[: len(counts), 0], self._rows[: len(counts), 1]
        mean = (shares * means).sum(axis=0)
        variance = (shares * (variances + np.square(means - mean))).sum(axis=0)
        self._rows[0] = mean, variance
        self._counts = [total.tolist()]
