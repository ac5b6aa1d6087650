"""What a graph costs on the device, in one unit: bytes of feature map moved per frame.

Only what folding changes is counted. An elementwise operator reads and writes its tensor and is dispatched
once. A copied weight costs no compute, but it takes space in the file and in the cache: a byte of it counts
as a small part of a byte that is moved on every frame.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from bnfold.affine import Affine

aten = torch.ops.aten

_READ_AND_WRITE = 2
_DISPATCH = 4096.0
_WEIGHT_BYTE = 1 / 64
_TYPICAL_BATCH = 1
_FUSED = 1 / 4
_TWO_BOUNDS = 17 / 16  # less than an addition more: it is still one operator

_PLAIN = frozenset(
    {
        aten.relu.default,
        aten.relu6.default,
        aten.hardtanh.default,
        aten.clamp.default,
        aten.clamp_min.default,
        aten.clamp_max.default,
        aten.leaky_relu.default,
    }
)


def elementwise(value: torch.Tensor) -> float:
    """One elementwise operator on a tensor of this shape."""
    sizes = [size if isinstance(size, int) else _TYPICAL_BATCH for size in value.shape]
    return math.prod(sizes) * value.element_size() * _READ_AND_WRITE + _DISPATCH


def lowered(affine: Affine, value: torch.Tensor) -> float:
    """An affine that is left as operators: a multiplication, an addition, or both."""
    operators = int(affine.has_scale) + int(affine.has_shift or affine.map is not None)
    constant = affine.map.size * value.element_size() if affine.map is not None else 0
    return operators * elementwise(value) + constant * _WEIGHT_BYTE


def operator(target: Any, value: torch.Tensor) -> float:
    """An activation as it is, or as the clamp with bounds per channel that a rule makes of it.

    Interpreters fuse a plain activation into the layer before it; one with bounds per channel is an operator.
    """
    if target in _PLAIN:
        return _FUSED * elementwise(value)
    return elementwise(value) * (_TWO_BOUNDS if target is aten.clamp.Tensor else 1.0)


def copied_weight(weight: torch.Tensor) -> float:
    """A second copy of a weight that several calls share."""
    return weight.numel() * weight.element_size() * _WEIGHT_BYTE
