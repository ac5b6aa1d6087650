"""The moments of many calls side by side in one array: merged in a few operations, however many calls.

Nothing is allocated here while a batch is on its way: what lives on between two activations keeps the
allocator from giving the next one the memory that the last one has left and that the cache still holds. The
network itself then takes up to a half longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bnfold.statistics.moments import Moments
from bnfold.statistics.reduction import BatchMoments

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
        means, variances = [one.mean for one in moments], [one.variance for one in moments]
        both = torch.cat(means + variances).cpu().numpy() if moments else np.empty(0)
        return cls([one.count for one in moments], [mean.shape[0] for mean in means], both.reshape(2, -1))

    def fits(self, limits: Array) -> bool:
        """Whether all are numbers within these limits, of the same shape as `both`."""
        return bool((np.abs(self.both) <= limits).all())  # NaN compares as False

    def split(self) -> list[Moments]:
        """One by one."""
        ends = np.cumsum(self.widths)
        return [
            Moments(count, mean.copy(), variance * count)
            for count, width, end in zip(self.counts, self.widths, ends, strict=True)
            for mean, variance in [self.both[:, end - width : end]]
        ]


class Gathered:
    """The moments of the calls of one batch, while it runs; the next batch takes the same memory."""

    def __init__(self) -> None:
        self._slots: list[BatchMoments] = []
        self._calls = 0

    def __len__(self) -> int:
        return self._calls

    def clear(self) -> None:
        """Before another batch."""
        self._calls = 0

    def append(self, moments: BatchMoments) -> None:
        """Those of one more call."""
        if self._calls == len(self._slots) or self._slots[self._calls].mean.shape != moments.mean.shape:
            memory = torch.empty_like(moments.mean), torch.empty_like(moments.mean)
            self._slots[self._calls :] = [BatchMoments(0, *memory)]
        slot = self._slots[self._calls]
        slot.count = moments.count
        slot.mean.copy_(moments.mean)
        slot.variance.copy_(moments.variance)
        self._calls += 1

    def packed(self) -> Packed:
        """All of them."""
        return Packed.of(self._slots[: self._calls])


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
