from __future__ import annotations

import json

import numpy as np
import pytest

from bnfold.statistics.moments import Moments


def _values(count: int, channels: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(
        generator.normal(size=channels) * 100, 0.01 + generator.random(channels), (count, channels)
    )


@pytest.mark.parametrize("sizes", [(1,), (5, 0, 1, 17), (3, 200, 2)])
def test_parts_of_unequal_size_merge_to_the_whole(sizes: tuple[int, ...]) -> None:
    values = _values(sum(sizes), 3)
    parts = np.split(values, np.cumsum(sizes)[:-1])
    merged = Moments.merged((Moments.of(part) for part in parts), 3)
    exact = values.astype(np.longdouble)
    mean = exact.mean(axis=0)
    m2 = ((exact - mean) ** 2).sum(axis=0)
    assert merged.count == sum(sizes)
    np.testing.assert_allclose(merged.mean, mean.astype(float), rtol=1e-13)
    np.testing.assert_allclose(merged.m2, m2.astype(float), rtol=1e-11)


def test_a_large_mean_keeps_a_small_variance() -> None:
    values = 50 + 0.01 * np.random.default_rng(1).standard_normal((4000, 2))
    merged = Moments.of(values[:1500]) + Moments.of(values[1500:])
    np.testing.assert_allclose(merged.unbiased_variance, values.var(axis=0, ddof=1), rtol=1e-10)
    assert (merged.variance > 0).all()


def test_the_order_of_parts_does_not_matter() -> None:
    parts = [Moments.of(_values(count, 4, seed)) for seed, count in enumerate((3, 90, 1, 12))]
    forward, backward = Moments.merged(parts, 4), Moments.merged(parts[::-1], 4)
    np.testing.assert_allclose(forward.mean, backward.mean, rtol=1e-13)
    np.testing.assert_allclose(forward.m2, backward.m2, rtol=1e-12)


def test_json_gives_the_same_numbers_back() -> None:
    moments = Moments.of(_values(7, 3))
    again = Moments.from_json(json.loads(json.dumps(moments.to_json())))
    assert again.count == 7
    assert np.array_equal(again.mean, moments.mean)
    assert np.array_equal(again.m2, moments.m2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": -1, "mean": [0.0], "m2": [0.0]},
        {"count": True, "mean": [0.0], "m2": [0.0]},
        {"count": 2, "mean": [0.0, 1.0], "m2": [0.0]},
        {"count": 2, "mean": [float("nan")], "m2": [0.0]},
        {"count": 2, "mean": [0.0], "m2": [-1.0]},
    ],
)
def test_what_is_no_moments_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Moments.from_json(wrong)


def test_channels_must_agree() -> None:
    with pytest.raises(ValueError, match="2 channels and 3"):
        Moments.empty(2) + Moments.empty(3)
