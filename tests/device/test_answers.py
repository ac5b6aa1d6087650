"""The answers of every artifact, against the original network in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import bnfold

from .conftest import Array, Case

pytestmark = pytest.mark.device


def ready(case: Case, index: int) -> dict[str, Array]:
    """A frame as predict_raw takes it, prepared without bnfold."""
    frame = case.frames[index]
    if isinstance(frame, dict):
        return {name: array[np.newaxis] for name, array in frame.items()}
    return {"image": (frame / 255).astype(np.float32)[np.newaxis, np.newaxis]}


def same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    """Equal to the last bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_every_frame_is_answered_as_by_the_network(case: Case) -> None:
    assert len(case.frames) == len(next(iter(case.answers.values()))) >= 24
    for index, frame in enumerate(case.frames):
        case.check(case.model.predict(frame), index)


def test_the_answers_differ_from_frame_to_frame(case: Case) -> None:
    """Otherwise an interpreter that repeats itself could pass."""
    for name, values in case.answers.items():
        nearest = min(np.abs(values[0] - other).max() for other in values[1:])
        assert nearest > 10 * case.tolerance[name]


def test_the_class_is_the_one_that_the_network_chose(case: Case) -> None:
    output = "output" if case.best else "scores"
    right = case.answers[output].argmax(axis=1).tolist()
    assert case.best in (None, right)
    chosen = [case.model.top(case.model.predict(frame), 1, output=output)[0] for frame in case.frames]
    assert [score.index for score in chosen] == right
    assert [score.label for score in chosen] == [str(number) for number in right]


def test_a_ready_input_gives_the_same_answer(case: Case) -> None:
    for index in (0, 7, 23):
        arrays = ready(case, index)
        case.check(case.model.predict_raw(arrays), index)
        assert same(case.model.predict_raw(arrays), case.model.predict(case.frames[index]))
    if len(case.model.inputs) == 1:
        case.check(case.model.predict_raw(ready(case, 3)["image"]), 3)


def test_nothing_is_kept_between_calls(case: Case) -> None:
    first = case.model.predict(case.frames[0])
    kept = {name: values.copy() for name, values in first.items()}
    between = case.model.predict(case.frames[1])
    again = case.model.predict(case.frames[0])
    assert same(kept, again)
    assert same(kept, first)  # the answer is the caller's own: no later call writes into it
    assert not same(between, again)


def test_a_frame_is_left_as_it_was(case: Case) -> None:
    arrays = ready(case, 0)
    before = {name: array.copy() for name, array in arrays.items()}
    case.model.predict_raw(arrays)
    assert same(arrays, before)


def test_several_threads_get_each_its_own_answer(case: Case) -> None:
    alone = [case.model.predict(frame) for frame in case.frames]
    turns = [index for _ in range(4) for index in range(len(case.frames))]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: case.model.predict(case.frames[index]), turns))
    for index, answer in zip(turns, together, strict=True):
        assert same(answer, alone[index])


def test_more_threads_per_answer_change_nothing_but_rounding(case: Case) -> None:
    model = bnfold.open(case.path, threads=2)
    for index in (0, 11):
        case.check(model.predict(case.frames[index]), index)


def test_the_runtime_can_be_asked_for_by_name(case: Case) -> None:
    name, _, version = case.model.runtime.partition(" ")
    assert version
    model = bnfold.open(case.path, runtime=name)
    assert model.runtime == case.model.runtime
    case.check(model.predict(case.frames[5]), 5)


def test_inputs_and_outputs_go_by_name_in_any_order(sensor: Case) -> None:
    assert [(spec.name, spec.shape) for spec in sensor.model.inputs] == [
        ("series", (1, 3, 32)),
        ("ambient", (1, 2)),
    ]
    frame: dict[str, Any] = sensor.frames[4]
    sensor.check(sensor.model.predict({"ambient": frame["ambient"], "series": frame["series"]}), 4)
    swapped = {"ambient": frame["ambient"][::-1], "series": frame["series"]}
    changed, kept = sensor.model.predict(swapped), sensor.model.predict(frame)
    assert np.array_equal(changed["aux.0"], kept["aux.0"])  # computed from the series alone
    assert not np.allclose(changed["scores"], kept["scores"])
