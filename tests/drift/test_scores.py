"""Normal scores: what they are, and that only the order of the values counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bnfold.drift.scores import normal_scores


def test_scores_are_the_quantiles_of_the_ranks() -> None:
    values = np.array([[3.0], [1.0], [2.0], [9.0]])
    expected = stats.norm.ppf((np.array([3, 1, 2, 4]) - 0.5) / 4)
    assert normal_scores(values)[:, 0] == pytest.approx(expected / expected.std(), abs=1e-6)


def test_a_heavy_tail_is_no_larger_than_any_other() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(50, 3))
    heavy = values.copy()
    heavy[:, 1] = np.sign(values[:, 1]) * np.exp(5 * np.abs(values[:, 1]))
    assert np.array_equal(normal_scores(values), normal_scores(heavy))


def test_equal_values_have_equal_scores_wherever_they_stand() -> None:
    random = np.random.default_rng(1)
    values = random.integers(0, 4, (40, 2)).astype(np.float32)
    order = random.permutation(40)
    scores = normal_scores(values)
    assert normal_scores(values[order]) == pytest.approx(scores[order], abs=1e-6)
    for column in range(2):
        for value in range(4):
            assert np.ptp(scores[values[:, column] == value, column]) == 0
    ranks = stats.rankdata(values[:, 0])
    expected = stats.norm.ppf((ranks - 0.5) / 40)
    expected -= expected.mean()
    assert scores[:, 0] == pytest.approx(expected / expected.std(), abs=1e-5)


def test_a_constant_channel_scores_zero() -> None:
    assert np.array_equal(normal_scores(np.full((9, 1), 4.0)), np.zeros((9, 1)))


def test_bytes_are_counted_to_the_same_scores() -> None:
    codes = np.random.default_rng(2).integers(0, 256, (130, 40)).astype(np.uint8)
    codes[:, 3] = 7
    codes[:, 4] //= 128
    assert np.array_equal(normal_scores(codes), normal_scores(codes.astype(np.float32)))
