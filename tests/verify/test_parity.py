"""The bound: the larger of 8 times the noise floor and 4 float32 ulp of max|y|."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bnfold.quantize.gate import Gate
from bnfold.verify import parity


def test_eight_noise_floors_where_they_are_larger() -> None:
    assert parity.tolerance(1e-5, 1.0) == 8e-5


def test_four_ulps_where_the_network_is_exact_by_chance() -> None:
    assert parity.tolerance(0.0, 1.0) == 4 * 2.0**-23
    assert parity.tolerance(0.0, 1000.0) == 4 * 2.0**-14
    assert parity.tolerance(1e-9, 1.5) == 4 * 2.0**-23


@pytest.mark.parametrize(("floor", "largest"), [(math.inf, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_nothing_passes_where_the_bound_is_not_finite(floor: float, largest: float) -> None:
    bound = parity.bound(floor, largest, exact=False)
    assert math.isnan(bound.tolerance)
    assert not bound.holds(0.0)


def test_the_edge_passes_and_the_next_number_does_not() -> None:
    bound = parity.bound(1e-5, 1.0, exact=False)
    assert bound.holds(8e-5)
    assert not bound.holds(math.nextafter(8e-5, 1.0))
    assert not bound.holds(math.nan)


def test_integers_are_held_to_equality() -> None:
    bound = parity.bound(0.0, 0.0, exact=True)
    assert bound.tolerance == 0.0
    assert parity.error(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4]), exact=True) == 0.25
    assert not bound.holds(0.25)
    assert bound.holds(parity.error(np.array([True, False]), np.array([True, False]), exact=True))


def test_under_a_gate_integers_are_held_to_the_share_that_agrees() -> None:
    gate = Gate("int8", tolerance=0.25, agreeing=0.05, min_agreement=0.75)
    for floor in (0.0, 0.5):  # however much of them the network's own rounding changes
        assert parity.bound(floor, 0.0, exact=True).under(gate).tolerance == 0.25
    assert parity.bound(1e-6, 1.0, exact=False, spread=2.0).under(gate).tolerance == 0.5
    unknown = replace(parity.bound(0.0, 0.0, exact=True), tolerance=math.nan)
    assert math.isnan(unknown.under(gate).tolerance)  # a random output stays one


def test_shape_kind_and_nan_are_never_close() -> None:
    one = np.ones((1, 2), np.float32)
    assert parity.error(one, np.ones(2, np.float32), exact=False) == math.inf
    assert parity.error(one.astype(np.int32), one, exact=False) == math.inf
    assert parity.error(np.array([math.nan]), np.array([math.nan]), exact=False) == math.inf


def test_the_imaginary_part_counts() -> None:
    assert parity.error(np.array([1 + 2j]), np.array([1 + 5j]), exact=False) == 3.0
