"""Mean and variance per channel, accumulated in float64 and merged exactly.

    n = n_a + n_b,  d = mean_b - mean_a
    mean = mean_a + d n_b / n,  M2 = M2_a + M2_b + d^2 n_a n_b / n

Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
Nothing is ever subtracted that is as large as the mean, so a mean of 50 with a deviation of 0.01 keeps a
positive and right variance, where E[x^2] - E[x]^2 in float32 gives a negative one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What a set of values comes to.

    Attributes:
        count: values per channel: frames times spatial positions.
        mean: shape (channels,).
        m2: shape (channels,), the sum of squared deviations from the mean.
    """

    count: int
    mean: Array
    m2: Array

    @classmethod
    def empty(cls, channels: int) -> Moments:
        """Of no values."""
        return cls(0, np.zeros(channels), np.zeros(channels))

    @classmethod
    def of(cls, values: Array) -> Moments:
        """Of an array of shape (values, channels)."""
        array = np.asarray(values, dtype=np.float64)
        if len(array) == 0:
            return cls.empty(array.shape[1])
        mean = array.mean(axis=0)
        return cls(len(array), mean, np.square(array - mean).sum(axis=0))

    @classmethod
    def merged(cls, parts: Iterable[Moments], channels: int) -> Moments:
        """Of the union of disjoint sets."""
        total = cls.empty(channels)
        for part in parts:
            total += part
        return total

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def variance(self) -> Array:
        """Shape (channels,): of the population, M2 / n."""
        return self.m2 / max(self.count, 1)

    @property
    def unbiased_variance(self) -> Array:
        """Shape (channels,): M2 / (n - 1), the one that BatchNorm's running variance estimates."""
        return self.m2 / max(self.count - 1, 1)

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.mean).all() and np.isfinite(self.m2).all())

    def __add__(self, other: Moments) -> Moments:
        if self.channels != other.channels:
            raise ValueError(f"{self.channels} channels and {other.channels}")
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        apart = other.mean - self.mean
        share = other.count / count
        return Moments(
            count,
            self.mean + apart * share,
            self.m2 + other.m2 + np.square(apart) * (self.count * share),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain types that read back to the same numbers."""
        return {"count": self.count, "mean": self.mean.tolist(), "m2": self.m2.tolist()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Moments:
        """The reverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is no such document.
        """
        count = document["count"]
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"{count!r} is no count")
        mean = np.asarray(document["mean"], dtype=np.float64)
        m2 = np.asarray(document["m2"], dtype=np.float64)
        if mean.ndim != 1 or mean.shape != m2.shape:
            raise ValueError(f"mean has shape {mean.shape}, m2 has shape {m2.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(m2).all() and (m2 >= 0).all()):
            raise ValueError("values that are not finite, or squares that are negative")
        return cls(count, mean, m2)
