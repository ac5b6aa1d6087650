"""The moments of many calls side by side in one array: merged in a few operations, however many calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bnfold.statistics.moments import Moments
from bnfold.statistics.reduction import BatchMoments

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Packed:
    """`Moments` of several calls.

    Attributes:
        counts: shape (calls,): values per channel.
        widths: shape (calls,): channels.
        mean, m2: shape (channels of all calls,).
    """

    counts: Array
    widths: NDArray[np.int64]
    mean: Array
    m2: Array

    @classmethod
    def of(cls, moments: Sequence[BatchMoments]) -> Packed:
        """Brought to the CPU in one go."""
        counts = np.array([one.count for one in moments], dtype=np.float64)
        widths = np.array([len(one.mean) for one in moments], dtype=np.int64)
        if not moments:
            return cls(counts, widths, np.empty(0), np.empty(0))
        parts = [one.mean for one in moments] + [one.variance for one in moments]
        flat = torch.cat(parts).cpu().numpy()
        half = len(flat) // 2
        return cls(counts, widths, flat[:half], flat[half:] * np.repeat(counts, widths))

    def __add__(self, other: Packed) -> Packed:
        """Of the union of disjoint sets of values, call by call (Chan, Golub and LeVeque 1979)."""
        counts = self.counts + other.counts
        share = np.repeat(other.counts / counts, self.widths)
        apart = other.mean - self.mean
        mine = np.repeat(self.counts, self.widths)
        return Packed(
            counts,
            self.widths,
            self.mean + apart * share,
            self.m2 + other.m2 + np.square(apart) * (mine * share),
        )

    def fits(self, means: Array, variances: Array) -> bool:
        """Whether all are numbers within these limits, each of shape (channels of all calls,)."""
        with np.errstate(invalid="ignore", over="ignore"):  # NaN compares as False
            within = np.abs(self.mean) <= means
            within &= self.m2 <= variances * np.repeat(self.counts, self.widths)
        return bool(within.all())

    def split(self) -> list[Moments]:
        """One by one."""
        ends = np.cumsum(self.widths)
        return [
            Moments(int(count), self.mean[end - width : end].copy(), self.m2[end - width : end].copy())
            for count, width, end in zip(self.counts, self.widths, ends, strict=True)
        ]
