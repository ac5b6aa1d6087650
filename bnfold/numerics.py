"""The one strict oracle for numeric comparisons, used by certificates, parity and tests alike.

Differences are taken in float64. Shapes must be equal, nothing is broadcast, and a NaN or an infinity on
either side is never "equal": it makes the error infinite.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # a device imports no more than it needs
    from numpy.typing import ArrayLike, NDArray

# unsigned and signed integers of the same size, and the bits of both infinities
_BITS: dict[np.dtype[Any], tuple[Any, Any, int, int]] = {
    np.dtype(np.float32): (np.dtype(np.uint32), np.dtype(np.int32), 0x7F800000, 0xFF800000),
    np.dtype(np.float64): (np.dtype(np.uint64), np.dtype(np.int64), 0x7FF << 52, 0xFFF << 52),
}
FLOAT32_EPS = float(np.finfo(np.float32).eps)


def is_finite(array: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite; of integers and the like none is."""
    known = _BITS.get(array.dtype)
    if known is not None and array.size:
        # As integers the bits of floats are in the order of their size, infinity and NaN behind all numbers,
        # and negative ones behind those. argmax writes nothing and calls nearly nothing: between two frames,
        # when the network has put everything out of the cache, that saves a third to a half of ``isfinite``
        unsigned, signed, infinity, minus_infinity = known
        bits = array.view(unsigned)
        largest = bits.item(bits.argmax())
        if largest < infinity:
            return True  # nothing is negative: the pixels of most frames
        if largest >= minus_infinity:
            return False
        bits = array.view(signed)
        return bool(bits.item(bits.argmax()) < infinity)
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def max_abs(values: ArrayLike) -> float:
    """max|values|; infinite if anything is not finite, 0 for no values."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return 0.0
    largest = float(np.max(np.abs(array)))
    return largest if math.isfinite(largest) else math.inf


def max_abs_error(actual: ArrayLike, expected: ArrayLike) -> float:
    """max|actual - expected| in float64.

    Raises:
        ValueError: the shapes differ (nothing is broadcast).
    """
    a, e = (values.astype(np.float64) for values in _alike(actual, expected))
    if not (np.isfinite(a).all() and np.isfinite(e).all()):
        return math.inf
    return max_abs(a - e)


def share_unequal(actual: ArrayLike, expected: ArrayLike) -> float:
    """The share of elements that differ: for integers and booleans, of which none is nearer than another.

    Raises:
        ValueError: the shapes differ (nothing is broadcast).
    """
    a, e = _alike(actual, expected)
    return float((a != e).mean()) if a.size else 0.0


def max_rel_error(actual: ArrayLike, expected: ArrayLike) -> float:
    """max|actual - expected| / max|expected|, in float64; the absolute error where expected is all zero.

    Raises:
        ValueError: the shapes differ (nothing is broadcast).
    """
    error = max_abs_error(actual, expected)
    if not math.isfinite(error):
        return math.inf
    scale = max_abs(expected)
    return error / scale if scale > 0 else error


def _alike(actual: ArrayLike, expected: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    a, e = np.asarray(actual), np.asarray(expected)
    if a.shape != e.shape:
        raise ValueError(f"shapes differ: {a.shape} and {e.shape}")
    return a, e


def float32_ulps(largest: float, count: float = 1.0) -> float:
    """``count`` units in the last place of a float32 of this magnitude."""
    return count * float(np.spacing(np.float32(largest)))
