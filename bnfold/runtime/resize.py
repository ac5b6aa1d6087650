"""Bilinear resampling of 8-bit images as Pillow computes it, without Pillow.

A triangle filter that widens when shrinking (so that no pixel is skipped), the width before the height,
coefficients in 22-bit fixed point, rounded to 8 bits after each of the two passes: the algorithm of Pillow's
``Image.resize(size, BILINEAR)`` (libImaging/Resample.c), which torchvision's ``Resize`` uses on images too.
So a camera frame on the device and a file in training are prepared alike, with integer arithmetic that no
processor rounds differently.

Each pass is Pillow's to the last bit, and so is the whole up to Pillow 12. Pillow 13 does the height first
where it shrinks much more than the width (python-pillow/Pillow#9549); then the rounding in between can differ
by one level of 255. The order here does not change: the same frame gives the same input on every device.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

_BITS = 22


def resize(image: Image, height: int, width: int) -> Image:
    """``image`` (H, W, channels) resampled to (height, width, channels)."""
    if image.shape[1] != width:
        image = _resample(image, 1, width)
    if image.shape[0] != height:
        image = _resample(image, 0, height)
    return image


def _resample(image: Image, axis: int, size: int) -> Image:
    index, weight = _taps(image.shape[axis], size)
    shape = list(image.shape)
    shape[axis] = size
    total = np.full(shape, 1 << (_BITS - 1), dtype=np.int32)  # a half: to round, not to cut off
    aligned = (1, -1, 1) if axis == 1 else (-1, 1, 1)
    for tap in range(index.shape[0]):
        total += image.take(index[tap], axis=axis) * weight[tap].reshape(aligned)
    total >>= _BITS
    return np.clip(total, 0, 255, out=total).astype(np.uint8)


@lru_cache(maxsize=32)
def _taps(before: int, after: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Source positions and fixed-point weights, both (taps, after); the weights of a target sum to one."""
    scale = before / after
    stretch = max(scale, 1.0)  # the filter's half-width in source pixels
    taps = math.ceil(stretch) * 2 + 1
    center = (np.arange(after) + 0.5) * scale
    first = np.maximum((center - stretch + 0.5).astype(np.intp), 0)
    last = np.minimum((center + stretch + 0.5).astype(np.intp), before)
    position = first + np.arange(taps)[:, np.newaxis]
    distance = (position - center + 0.5) * (1.0 / stretch)
    weight = np.where(position < last, np.maximum(1.0 - np.abs(distance), 0.0), 0.0)
    total: NDArray[Any] = np.zeros(after)
    for row in weight:  # one after the other, as Pillow adds them: np.sum rounds in another order
        total += row
    fixed = np.floor(weight / total * (1 << _BITS) + 0.5).astype(np.int32)
    return np.minimum(position, before - 1), fixed
