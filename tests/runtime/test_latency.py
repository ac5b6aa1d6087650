from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from bnfold.runtime.latency import Latency, Plan, timed


def test_percentiles_are_the_nearest_rank_above() -> None:
    times = np.arange(1, 1001)[::-1] * 1_000_000  # 1 to 1000 ms
    latency = Latency.of(times)
    assert (latency.p50, latency.p90, latency.p99, latency.largest) == (500, 900, 990, 1000)
    assert latency.mean == 500.5
    assert latency.per_second == pytest.approx(1000 / 500.5)


@pytest.mark.parametrize(
    ("frames", "p90", "p99"), [(99, None, None), (100, 90.0, None), (999, 900.0, None), (1000, 900.0, 990.0)]
)
def test_a_percentile_needs_frames_beyond_it(frames: int, p90: float | None, p99: float | None) -> None:
    latency = Latency.of(np.arange(1, frames + 1) * 1_000_000)
    assert (latency.p90, latency.p99) == (p90, p99)


def test_unrest_is_the_slowest_stretch_over_the_fastest() -> None:
    quiet = np.full(800, 2_000_000)
    assert Latency.of(quiet).unrest == 1
    disturbed = quiet.copy()
    disturbed[300:400] *= 3
    assert Latency.of(disturbed).unrest == 3
    assert Latency.of(quiet[:255]).unrest is None


def test_sides_alternate_and_the_first_one_changes() -> None:
    seen: list[tuple[str, int]] = []
    times = timed(
        [lambda frame: seen.append(("a", frame)), lambda frame: seen.append(("b", frame))],
        [[1, 2, 3], [10, 20]],
        Plan(frames=4, seconds=60, warm_up=1),
    )
    assert [len(side) for side in times] == [4, 4]
    assert seen == [("a", 1), ("b", 10), *[("a", 1), ("b", 10)], ("b", 20), ("a", 2), ("a", 3), ("b", 10),
                    ("b", 20), ("a", 1)]  # fmt: skip


def test_what_takes_longer_is_seen_to() -> None:
    def pause(seconds: float) -> Any:
        return lambda frame: time.sleep(seconds)

    quick, slow = timed([pause(0.001), pause(0.004)], [[0], [0]], Plan(frames=12, seconds=60, warm_up=0))
    assert (quick >= 1_000_000).all()
    assert (slow >= 4_000_000).all()


def test_time_ends_it_after_at_least_one_frame() -> None:
    (times,) = timed([lambda frame: time.sleep(0.02)], [[0]], Plan(frames=10**6, seconds=0.01, warm_up=0))
    assert len(times) == 1


def test_a_plan_in_parts_is_the_whole_plan() -> None:
    plan = Plan(frames=1024, seconds=60, warm_up=16)
    parts = [plan.share(10, index) for index in range(10)]
    assert sum(part.frames for part in parts) == 1024
    assert {part.warm_up for part in parts} == {2}
    spent = [np.full(100, 10**8)] * 2  # 20 s
    assert plan.share(10, 2, spent).seconds == pytest.approx(40 / 8)
    assert plan.share(1, 0) == plan
