"""The largest scores of one answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bnfold.errors import InputError
from bnfold.runtime.scores import Score, top

VALUES = np.array([0.5, -1.0, 4.0, 0.5], dtype=np.float32)
LABELS = ["cat", "dog", "owl", "fox"]


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1), (1, 4, 1, 1)])
def test_largest_first_and_ties_in_the_order_of_the_classes(shape: tuple[int, ...]) -> None:
    assert top(VALUES.reshape(shape), LABELS, 3) == [
        Score(2, "owl", 4.0),
        Score(0, "cat", 0.5),
        Score(3, "fox", 0.5),
    ]


def test_many_ties() -> None:
    """A sort that is not stable shows from some twenty values on."""
    values = np.tile([1.0, 0.0], 50)
    assert [score.index for score in top(values, None, 100)] == [*range(0, 100, 2), *range(1, 100, 2)]


def test_more_than_there_are_gives_all() -> None:
    assert [score.index for score in top(VALUES, LABELS, 9)] == [2, 0, 3, 1]


def test_without_labels_the_number_is_the_label() -> None:
    assert top(VALUES, None, 1) == [Score(2, "2", 4.0)]


def test_integers_and_one_class() -> None:
    assert top(np.array([-128, 127], dtype=np.int8), None, 2) == [Score(1, "1", 127.0), Score(0, "0", -128.0)]
    assert top(np.array([[0.25]]), ["only"], 1) == [Score(0, "only", 0.25)]


def test_to_json() -> None:
    (score,) = top(VALUES, LABELS, 1)
    assert json.loads(json.dumps(score.to_json())) == {"index": 2, "label": "owl", "score": 4.0}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_have_no_order(bad: float) -> None:
    with pytest.raises(InputError) as caught:
        top(np.array([1.0, bad, 2.0]), None, 1)
    assert caught.value.code == "BNF-R016"
    assert caught.value.what == "1 of 3 scores are not finite"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (np.zeros((2, 4)), None),
        (np.zeros((2, 4)), LABELS),
        (np.float32(3), None),
        (np.zeros(5), LABELS),
        (np.zeros(3), LABELS),
        (np.zeros((1, 0)), None),
    ],
)
def test_not_the_scores_of_one_frame(values: Any, labels: list[str] | None) -> None:
    with pytest.raises(InputError) as caught:
        top(values, labels, 1)
    assert caught.value.code == "BNF-R017"
    assert str(np.shape(values)) in caught.value.what
    assert ("4 labels" in caught.value.what) is (labels is not None)
