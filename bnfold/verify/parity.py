"""One comparison of one output, and the bound that it is held to.

The bound is measured, not chosen: the original network is run in float32 and in float64 on the same frames,
and what its own rounding costs there (the noise floor) is what a faithful candidate may cost too, with room
for another order of summation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bnfold import numerics
from bnfold.quantize.gate import Gate

Array = NDArray[Any]

NOISE_FACTOR = 8.0
"""Another order of summation may cost a few times what the original's own costs."""

ULPS = 4.0
"""The least tolerance, in float32 ulp of max|y|: a small network can be exact by chance."""

MIN_FRAMES = 16


@dataclass(frozen=True)
class Parity:
    """How far one output of one candidate is from the reference.

    For floating outputs the three numbers are absolute errors in the output's own unit. For integer and
    boolean outputs (an argmax) they are shares of elements that differ, so a tolerance of 0 means equal in
    every element; a share is tolerated only where the original network disagrees with itself between float32
    and float64. They are those of the worst call; below ``fp32`` of all frames together, since there the
    share that agrees (:class:`~bnfold.verify.agreement.Agreement`) rules integers, and nothing else does.

    Attributes:
        candidate: ``fold``, ``onnx``, ``tflite``, or ``torch`` for another module.
        runtime: what ran it, with its version: ``onnxruntime 1.32.0``.
        output: the output's name.
        frames: how many were compared.
        frames_source: ``samples`` (given by the user, filled up to 16 with seeded random ones) or ``random``.
        max_abs_error: infinite where a value is not finite or a shape differs.
        noise_floor: the original's float32 against its float64.
        tolerance: what ``max_abs_error`` may be.
        passed: whether it is.
        role: of an artifact: ``clean`` or ``monitor``.
        precision: of an artifact: below ``fp32`` the tolerance is a share of the output's range.
        exact: whether the numbers are shares of elements.
    """

    candidate: str
    runtime: str
    output: str
    frames: int
    frames_source: Literal["samples", "random"]
    max_abs_error: float
    noise_floor: float
    tolerance: float
    passed: bool
    role: str = "clean"
    precision: str = "fp32"
    exact: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; a number that is not finite is null, which JSON can say."""
        return {
            "candidate": self.candidate,
            "runtime": self.runtime,
            "output": self.output,
            "frames": self.frames,
            "frames_source": self.frames_source,
            "max_abs_error": finite_or_none(self.max_abs_error),
            "noise_floor": finite_or_none(self.noise_floor),
            "tolerance": finite_or_none(self.tolerance),
            "passed": self.passed,
            "role": self.role,
        }


@dataclass(frozen=True)
class Bound:
    """What the error of one output is held to.

    Attributes:
        noise_floor: see :class:`Parity`.
        tolerance: see :func:`tolerance`; not finite where nothing can be compared.
        largest: max|y| of the reference.
        spread: its largest less its smallest value.
        exact: whether the numbers are shares of elements.
    """

    noise_floor: float
    tolerance: float
    largest: float
    spread: float = 0.0
    exact: bool = False

    def holds(self, error: float) -> bool:
        """Whether this error passes; never where the error or the bound is not finite."""
        return math.isfinite(error) and math.isfinite(self.tolerance) and error <= self.tolerance

    def under(self, gate: Gate | None) -> Bound:
        """The bound of a low-precision file: a share of the output's range, or of all its integers."""
        if gate is None or not math.isfinite(self.tolerance):
            return self
        if self.exact:  # what rules is how many agree, however few the original's own rounding changes
            return replace(self, tolerance=1 - gate.min_agreement)
        wider = gate.tolerance * self.spread
        return replace(self, tolerance=wider) if wider > self.tolerance else self


def tolerance(noise_floor: float, largest: float) -> float:
    """The larger of 8 times the noise floor and 4 float32 ulp of max|y|; NaN where either is not finite."""
    if not (math.isfinite(noise_floor) and math.isfinite(largest)):
        return math.nan
    return max(NOISE_FACTOR * noise_floor, numerics.float32_ulps(largest, ULPS))


def bound(noise_floor: float, largest: float, *, exact: bool, spread: float = 0.0) -> Bound:
    """The bound of an output; ``exact`` for integers and booleans, whose numbers are shares of elements."""
    if exact:
        return Bound(noise_floor, min(NOISE_FACTOR * noise_floor, 1.0), largest, exact=True)
    return Bound(noise_floor, tolerance(noise_floor, largest), largest, spread)


def is_exact(dtype: str) -> bool:
    """Whether outputs of this dtype are compared element by element: integers and booleans."""
    return np.dtype(dtype).kind in "biu"


def error(actual: Array, expected: Array, *, exact: bool) -> float:
    """The distance of one output: max|difference|, or the share of elements that differ where ``exact``.

    Infinite where shapes or kinds (floating against integer) differ or a value is not finite.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape or (actual.dtype.kind in "biu") != exact:
        return math.inf
    if exact:
        return numerics.share_unequal(actual, expected)
    return numerics.max_abs_error(_real(actual), _real(expected))


def _real(values: Array) -> Array:
    """A complex array as pairs of reals, so that no imaginary part is dropped; others unchanged."""
    return np.stack([values.real, values.imag]) if values.dtype.kind == "c" else values


def finite_or_none(number: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return number if math.isfinite(number) else None
