"""The range of every tensor inside a float32 file, over frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from bnfold.inner_values import Feeds
from bnfold.quantize.inside import values

Ranges: TypeAlias = dict[str, tuple[float, float]]
"""Tensor name -> smallest and largest value."""


def of_frames(target: str, data: bytes, calls: Iterable[Feeds]) -> Ranges:
    """The smallest and the largest finite value of each tensor over all calls.

    Infinities are no values of the network but the padding of a max pooling, which takes none of them.
    """
    ranges: Ranges = {}
    for found in values(target, data, calls):
        for name, value in found.items():
            inside = value if np.isfinite(value).all() else value[np.isfinite(value)]
            if inside.size:
                low, high = ranges.get(name, (np.inf, -np.inf))
                ranges[name] = (min(low, float(inside.min())), max(high, float(inside.max())))
    return ranges


def with_room(ranges: Ranges, factor: float, *, but: Iterable[str]) -> Ranges:
    """The same with each end that much further from zero, save for the tensors named in ``but``."""
    kept = set(but)
    return {
        name: (low, high) if name in kept else (low * factor, high * factor)
        for name, (low, high) in ranges.items()
    }


def stretched(ranges: Ranges, names: Iterable[str], factor: float) -> Ranges:
    """The same, with the ranges of some tensors stretched about their middle, though not over zero.

    The quantizers take a ReLU away where the range of its output cuts off what is negative: so it must.
    """
    result = dict(ranges)
    for name in names:
        if name in result:
            low, high = result[name]
            middle, half = (low + high) / 2, (high - low) / 2 * factor
            below, above = middle - half, middle + half
            result[name] = (max(below, 0.0) if low >= 0 else below, min(above, 0.0) if high <= 0 else above)
    return result
