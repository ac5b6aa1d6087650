from __future__ import annotations

import gc
import weakref
from typing import Any, ClassVar, cast

import numpy as np

from bnfold.runtime.latency import Plan
from bnfold.runtime.model import Model
from bnfold.runtime.ratio import OPENINGS
from bnfold.runtime.streams import RAW, WHOLE, timed_in_turn


class Opened:
    """Stands for a model: counts those in memory, and keeps what it was given."""

    alive: ClassVar[weakref.WeakSet[Opened]] = weakref.WeakSet()

    def __init__(self, side: int, seen: list[tuple[int, Any]]) -> None:
        Opened.alive.add(self)
        self._side, self._seen = side, seen

    def predict_raw(self, frame: Any) -> None:
        assert len(Opened.alive) <= 2
        self._seen.append((self._side, frame))

    predict = predict_raw


def test_both_are_opened_anew_one_pair_at_a_time_and_the_frames_go_on() -> None:
    gc.collect()
    seen: list[tuple[int, Any]] = []
    opened: list[int] = []

    def anew(side: int) -> Model:
        opened.append(side)
        return cast(Model, Opened(side, seen))

    models = [anew(0), anew(1)]
    given: Any = {RAW: [list(range(50)), list(range(50, 100))]}
    times = timed_in_turn(models, anew, given, Plan(frames=45, warm_up=0), lambda stage: None)
    assert len(opened) == 2 * OPENINGS
    assert opened[2:6] == [1, 0, 0, 1]
    assert [frame for side, frame in seen if side == 0] == list(range(45))
    assert [frame for side, frame in seen if side == 1] == list(range(50, 95))
    assert [[len(part) for part in side] for side in times[RAW]] == [[4, 5] * 5] * 2


def test_time_ends_it_after_two_openings() -> None:
    seen: list[tuple[int, Any]] = []

    def anew(side: int) -> Model:
        return cast(Model, Opened(side, seen))

    models = [anew(0), anew(1)]
    plan = Plan(frames=1000, seconds=1e-9, warm_up=0)
    times = timed_in_turn(models, anew, {RAW: [[0], [0]], WHOLE: [[0], [0]]}, plan, lambda stage: None)
    assert [len(np.concatenate(side)) for stream in times.values() for side in stream] == [2, 2, 2, 2]


def test_one_artifact_is_opened_once() -> None:
    seen: list[tuple[int, Any]] = []
    models = [cast(Model, Opened(0, seen))]
    plan = Plan(frames=5, warm_up=1)
    times = timed_in_turn(models, lambda side: models[0], {RAW: [[7]]}, plan, lambda stage: None)
    assert [len(part) for part in times[RAW][0]] == [5]
    assert seen == [(0, 7)] * 6
