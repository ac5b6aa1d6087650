"""The strict oracle is strict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnfold import numerics


def test_error_is_taken_in_float64() -> None:
    actual = np.array([1.0, 2.0], dtype=np.float32)
    assert numerics.max_abs_error(actual, actual.astype(np.float64) + 1e-12) == pytest.approx(1e-12, rel=1e-3)


def test_relative_error_is_relative_to_the_largest_expected_value() -> None:
    assert numerics.max_rel_error([1.0, 4.5], [1.0, 4.0]) == 0.125
    assert numerics.max_rel_error([0.5, 0.0], [0.0, 0.0]) == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_equal(bad: float) -> None:
    assert numerics.max_abs_error([bad], [bad]) == math.inf
    assert numerics.max_rel_error([1.0], [bad]) == math.inf
    assert numerics.max_abs([bad]) == math.inf


def test_nothing_is_broadcast() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        numerics.max_abs_error(np.zeros((2, 1)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="shapes differ"):
        numerics.share_unequal(np.zeros((2, 1), int), np.zeros((2, 2), int))


def test_of_integers_the_share_that_differs() -> None:
    assert numerics.share_unequal([2**60, 7, 0, 1], [2**60 + 1, 7, 0, 1]) == 0.25  # float64 has them equal
    assert numerics.share_unequal([True, False], [True, True]) == 0.5
    assert numerics.share_unequal(np.zeros((0, 3), int), np.zeros((0, 3), int)) == 0


def test_float32_ulps() -> None:
    assert numerics.float32_ulps(1.0, 4) == 4 * 2.0**-23


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "complex64"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 4), (0,), (2, 0)])
def test_values_that_are_not_finite_are_found_wherever_they_are(shape: tuple[int, ...], dtype: str) -> None:
    array = np.full(shape, np.finfo(dtype).max, dtype=dtype)
    assert numerics.is_finite(array)
    for place in range(array.size):
        for value in (np.nan, np.inf, -np.inf):
            bad = array.copy()
            bad.flat[place] = value
            assert not numerics.is_finite(bad)
            assert not numerics.is_finite(bad.T)


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFFFFFF])
@pytest.mark.parametrize("negative", ["none", "some", "all"])
def test_one_bad_value_is_found_in_arrays_of_every_length(bits: int, negative: str) -> None:
    """Vector instructions take several values at once and the rest one by one: both have to see it."""
    generator = np.random.default_rng(0)
    for count in (*range(1, 70), 1003):
        array = generator.standard_normal(count).astype(np.float32)
        if negative != "some":
            array = np.abs(array) if negative == "none" else -np.abs(array)
        assert numerics.is_finite(array)
        for place in {0, count // 2, count - 1}:
            bad = array.copy()
            bad.view(np.uint32)[place] = bits
            assert not numerics.is_finite(bad), (count, place)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", ">f8", np.complex64])
def test_the_last_numbers_before_infinity(dtype: np.typing.DTypeLike) -> None:
    largest = np.finfo(dtype).max
    smallest = np.finfo(dtype).smallest_subnormal
    numbers = np.array([0.0, -0.0, smallest, -smallest, largest, -largest], dtype)
    for kept in (numbers, numbers[::2], numbers[1::2], numbers[:0], numbers[4], numbers[5:]):
        assert numerics.is_finite(np.asarray(kept))
    for value in (np.nan, np.inf, -np.inf, -np.nan):
        for place in range(len(numbers)):
            bad = numbers.copy()
            bad[place] = value
            assert not numerics.is_finite(bad)
            assert not numerics.is_finite(bad[place : place + 1])
            assert not numerics.is_finite(np.asarray(bad[place]))


@pytest.mark.parametrize("array", [np.full((2, 3), 255, np.uint8), np.array([True, False]), np.array(["a"])])
def test_what_is_no_floating_point_number_is_finite(array: np.ndarray) -> None:
    assert numerics.is_finite(array)
