"""On made-up times: what a pair of openings adds lasts as long as they do."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.runtime.ratio import OPENINGS, Ratio


def drawn(
    generator: np.random.Generator, times: float = 1.0, *, layout: float = 0.02, own_caches: float = 1.0
) -> Ratio:
    """Ten openings of a hundred frames: each differs by ``layout``, and the machine is busy now and then."""
    first, second = [], []
    for _ in range(OPENINGS):
        busy = np.repeat(generator.uniform(1, 5, 10), 10) * 1e6
        begins = np.where(np.arange(100) % 2 == 0, own_caches, 1 / own_caches)
        ours = busy * begins * times * np.exp(generator.normal(0, layout)) * generator.normal(1, 0.02, 100)
        first.append(ours.astype(np.int64))
        second.append((busy * generator.normal(1, 0.02, 100)).astype(np.int64))
    return Ratio.of(first, second)


def test_one_file_twice_is_told_apart_in_one_of_twenty() -> None:
    generator = np.random.default_rng(0)
    told = sum(drawn(generator).tells for _ in range(1000))
    assert 30 < told < 75


def test_what_the_order_of_a_pair_does_is_no_difference() -> None:
    generator = np.random.default_rng(0)
    found = [drawn(generator, layout=0.002, own_caches=0.9) for _ in range(200)]
    assert sum(one.tells for one in found) < 25
    assert np.mean([np.log(one.median) for one in found]) == pytest.approx(0, abs=0.0005)


def test_five_percent_are_told() -> None:
    generator = np.random.default_rng(0)
    found = [drawn(generator, 1.05) for _ in range(200)]
    assert sum(one.tells for one in found) > 195
    assert 180 <= sum(one.low < 1.05 < one.high for one in found if one.low and one.high) <= 200


def test_the_interval_is_students_t_of_the_openings() -> None:
    ones = np.full(4, 1000)
    ratio = Ratio.of([ones * 2, ones * 4, ones * 8], [ones, ones, ones])
    assert ratio.median == pytest.approx(4)
    half = 4.303 * np.log(2) / np.sqrt(3)
    assert (ratio.low, ratio.high) == pytest.approx((4 * np.exp(-half), 4 * np.exp(half)))
    assert ratio.to_json() == {"median": ratio.median, "low": ratio.low, "high": ratio.high}


def test_one_opening_tells_nothing() -> None:
    ratio = Ratio.of([np.array([30])], [np.array([20])])
    assert ratio.median == pytest.approx(1.5)
    assert (ratio.low, ratio.high, ratio.tells) == (None, None, False)
