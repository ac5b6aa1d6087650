"""How long one frame takes, one frame at a time: the single stream of MLPerf Inference.

A frame is given when the answer to the one before has arrived. The 90th percentile is the figure that
MLPerf Inference gives for this scenario (Reddi et al., "MLPerf Inference Benchmark", ISCA 2020): on a device
it is the slow frames that are felt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Call: TypeAlias = Callable[[Any], Any]
Nanoseconds: TypeAlias = NDArray[np.int64]

# A percentile needs this many frames beyond it, or it is the accident of a few.
_BEYOND = 10
FOR_A_P90 = 10 * _BEYOND
_BLOCKS, _IN_A_BLOCK = 8, 32


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        frames: answers to time.
        seconds: stop earlier, after this much time; at least one frame is timed.
        warm_up: answers before the first that counts.
    """

    frames: int = 1024
    seconds: float = 60.0
    warm_up: int = 16

    def share(self, parts: int, index: int, spent: Sequence[Nanoseconds] = ()) -> Plan:
        """The plan of one of several parts, one after another; ``spent`` are the times before it."""
        frames = self.frames * (index + 1) // parts - self.frames * index // parts
        seconds = self.seconds - sum(float(times.sum()) for times in spent) / 1e9
        return Plan(frames, seconds / (parts - index), -(-self.warm_up // parts))


def timed(calls: Sequence[Call], frames: Sequence[Sequence[Any]], plan: Plan) -> list[Nanoseconds]:
    """Nanoseconds of each answer, in order; the frames are taken in turn.

    Several calls alternate frame by frame, so that a busy machine disturbs them alike. Which one begins
    changes from frame to frame: the second one finds the caches as the first left them.

    Args:
        calls: what answers.
        frames: for each call, its frames.
        plan: how much to measure.

    Returns:
        For each call, shape (answers,).
    """
    clock = time.perf_counter_ns
    for i in range(plan.warm_up):
        for call, given in zip(calls, frames, strict=True):
            call(given[i % len(given)])
    times = np.zeros((len(calls), plan.frames), dtype=np.int64)
    order = list(range(len(calls)))
    deadline = clock() + int(plan.seconds * 1e9)
    done = 0
    while done < plan.frames and (done == 0 or clock() < deadline):
        for side in order if done % 2 == 0 else order[::-1]:
            frame = frames[side][done % len(frames[side])]
            call = calls[side]
            begin = clock()
            call(frame)
            times[side, done] = clock() - begin
        done += 1
    return [row[:done].copy() for row in times]


@dataclass(frozen=True)
class Latency:
    """What a stream came to, in milliseconds.

    Attributes:
        frames: timed answers.
        p50, p90, p99: percentiles, the nearest rank above; None where too few frames lie beyond it.
        largest, mean: of all.
        unrest: the slowest of eight stretches of the stream over the fastest, by their medians: 1.0 on a
            quiet machine. None where the stream is too short.
    """

    frames: int
    p50: float
    p90: float | None
    p99: float | None
    largest: float
    mean: float
    unrest: float | None

    @classmethod
    def of(cls, times: Nanoseconds) -> Latency:
        """Of nanoseconds in the order they were taken."""
        ms = np.sort(times) / 1e6
        return cls(
            len(ms),
            _rank(ms, 0.5),
            _percentile(ms, 0.9),
            _percentile(ms, 0.99),
            float(ms[-1]),
            float(ms.mean()),
            _unrest(times),
        )

    @property
    def per_second(self) -> float:
        """Frames per second."""
        return 1000 / self.mean if self.mean > 0 else math.inf

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "frames": self.frames,
            "p50_ms": self.p50,
            "p90_ms": self.p90,
            "p99_ms": self.p99,
            "max_ms": self.largest,
            "mean_ms": self.mean,
            "frames_per_second": self.per_second,
            "unrest": self.unrest,
        }


def _rank(ordered: NDArray[np.float64], share: float) -> float:
    return float(ordered[max(0, math.ceil(share * len(ordered)) - 1)])


def _percentile(ordered: NDArray[np.float64], share: float) -> float | None:
    return _rank(ordered, share) if round(len(ordered) * (1 - share), 6) >= _BEYOND else None


def _unrest(times: Nanoseconds) -> float | None:
    if len(times) < _BLOCKS * _IN_A_BLOCK:
        return None
    medians = [float(np.median(block)) for block in np.array_split(times, _BLOCKS)]
    return max(medians) / min(medians) if min(medians) > 0 else None
