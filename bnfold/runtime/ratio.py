"""Two artifacts' times in turn, and whether they tell which one is faster.

One file opened twice does not take the same time: where its weights and buffers come to lie in memory makes
up to some percent (Mytkowicz et al., "Producing wrong data without doing anything obviously wrong!", ASPLOS
2009). However many frames are timed, two openings differ by that. So both artifacts are opened several
times, and the interval is of what varies from opening to opening (Kalibera and Jones, "Rigorous
benchmarking in reasonable time", ISMM 2013: repetition where the variation is).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnfold.runtime.latency import Nanoseconds

OPENINGS = 10

# Student's t, 97.5%, for 1 to OPENINGS - 1 degrees of freedom
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Ratio:
    """One side's time over the other's.

    Attributes:
        median: of an opening's pairs that one side begins, and of those that the other does, for who runs
            twice in a row finds its own caches; the geometric mean of these.
        low, high: its 95% interval, Student's t over the logarithms of the openings: of so few, a
            bootstrap's is too narrow. None where there was one opening.
    """

    median: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, first: Sequence[Nanoseconds], second: Sequence[Nanoseconds]) -> Ratio:
        """first / second, pair by pair; of each opening, at most `OPENINGS`, the times of its frames."""
        logs = np.array([_log(*times) for times in zip(first, second, strict=True)])
        mean = float(logs.mean())
        if len(logs) == 1:
            return cls(math.exp(mean), None, None)
        half = _T[len(logs) - 2] * float(logs.std(ddof=1)) / math.sqrt(len(logs))
        return cls(math.exp(mean), math.exp(mean - half), math.exp(mean + half))

    @property
    def tells(self) -> bool:
        """Whether the interval leaves 1 out: one side is faster than the other."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"median": self.median, "low": self.low, "high": self.high}


def _log(first: Nanoseconds, second: Nanoseconds) -> float:
    """Of one opening: which side begins changes from pair to pair, and each order has a median of its own."""
    pairs = np.log(np.maximum(first, 1) / np.maximum(second, 1))
    return float(np.mean([np.median(pairs[order::2]) for order in (0, 1)[: len(pairs)]]))
