"""The algebra of affines, on values."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.affine import Affine


def run(affine: Affine, x: np.ndarray) -> np.ndarray:
    column = (-1, *[1] * (x.ndim - 2))
    y = affine.scale.reshape(column) * x + affine.shift.reshape(column)
    return y if affine.map is None else y + affine.map


def test_frozen_statistics() -> None:
    affine = Affine.from_batch_norm(
        np.array([1.0, -2.0]), np.array([3.0, 0.25]), 1.0, np.array([2.0, -1.0]), np.array([0.5, 0.0])
    )
    assert affine.scale.tolist() == [1.0, -1 / np.sqrt(1.25)]
    assert affine.shift[0] == -0.5
    assert affine.shift[1] == -2 / np.sqrt(1.25)


def test_statistics_that_give_no_number() -> None:
    with pytest.raises(ValueError, match="positive"):
        Affine.from_batch_norm(np.zeros(1), np.array([-1e-5]), 1e-5, None, None)


def test_sum_and_multiple() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 3, 4, 5))
    first = Affine(rng.normal(size=3), rng.normal(size=3), rng.normal(size=(3, 4, 5)))
    second = Affine(rng.normal(size=3), rng.normal(size=3), rng.normal(size=(3, 4, 5)))
    plain = Affine(rng.normal(size=3), rng.normal(size=3))
    for a, b in ((first, second), (first, plain), (plain, first), (plain, plain)):
        np.testing.assert_allclose(run(a.plus(b), x), run(a, x) + run(b, x), rtol=1e-12)
        np.testing.assert_allclose(run(a.times(-3.0), x), -3 * run(a, x), rtol=1e-13)
    assert plain.plus(plain).map is None


def test_composition_and_split() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 5))
    first = Affine(rng.normal(size=3), rng.normal(size=3), rng.normal(size=(3, 4, 5)))
    second = Affine(rng.normal(size=3), rng.normal(size=3))
    np.testing.assert_allclose(run(second.after(first), x), run(second, run(first, x)), rtol=1e-13)
    np.testing.assert_allclose(run(first.after(second), x), run(first, run(second, x)), rtol=1e-13)
    split = first.scale_after_shift()
    assert split is not None
    scale, shift = split
    np.testing.assert_allclose(run(scale, run(shift, x)), run(first, x), rtol=1e-13)


def test_a_scale_near_zero_is_not_split() -> None:
    assert Affine(np.zeros(2), np.ones(2)).scale_after_shift() is None
    assert Affine(np.array([1.0, 1e-9]), np.ones(2)).scale_after_shift() is None


def test_what_does_nothing() -> None:
    assert Affine.identity(3).is_identity
    assert not Affine(np.ones(1), np.zeros(1), np.zeros((1, 2))).is_identity


def test_a_dead_channel_keeps_its_shift_where_the_split_is() -> None:
    affine = Affine(np.array([2.0, 0.0]), np.array([6.0, 5.0]))
    split = affine.scale_after_shift()
    assert split is not None
    scale, shift = split
    assert scale.scale.tolist() == [2.0, 0.0]
    assert scale.shift.tolist() == [0.0, 5.0]
    assert shift.shift.tolist() == [3.0, 0.0]
    both = scale.after(shift)
    assert np.array_equal(both.scale, affine.scale)
    assert np.array_equal(both.shift, affine.shift)
