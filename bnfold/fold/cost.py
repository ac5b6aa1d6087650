"""What a graph costs on the device: bytes of feature map moved per frame, and operators left over.

Only what folding changes is counted. An elementwise operator reads and writes its tensor and is
dispatched once. A copied weight costs no compute, but it takes space in the file and in the cache: a byte
of it counts as a small part of a byte that is moved on every frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from bnfold.affine import Affine

aten = torch.ops.aten

_READ_AND_WRITE = 2
_DISPATCH = 4096.0
_WEIGHT_BYTE = 1 / 64
_TYPICAL_BATCH = 1
_FUSED = 1 / 4  # interpreters fuse a plain activation into the layer before it
_TWO_BOUNDS = 17 / 16  # a clamp is less than an addition more: it is still one operator

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


@dataclass(frozen=True)
class Price:
    """What something costs.

    Attributes:
        bytes: moved per frame, or what counts as much.
        operators: multiplications and additions that are left over for affines.
    """

    bytes: float = 0.0
    operators: int = 0

    def __add__(self, other: Price) -> Price:
        return Price(self.bytes + other.bytes, self.operators + other.operators)

    def __sub__(self, other: Price) -> Price:
        return Price(self.bytes - other.bytes, self.operators - other.operators)

    def beats(self, other: Price) -> bool:
        """Whether it is cheaper, and leaves no more operators."""
        return self.bytes < other.bytes and self.operators <= other.operators


def elementwise(value: torch.Tensor) -> float:
    """Bytes of one elementwise operator on a tensor of this shape."""
    sizes = [size if isinstance(size, int) else _TYPICAL_BATCH for size in value.shape]
    return math.prod(sizes) * value.element_size() * _READ_AND_WRITE + _DISPATCH


def lowered(affine: Affine, value: torch.Tensor) -> Price:
    """An affine that is left as operators: a multiplication, an addition, or both."""
    operators = int(affine.has_scale) + int(affine.has_shift or affine.map is not None)
    constant = affine.map.size * value.element_size() if affine.map is not None else 0
    return Price(operators * elementwise(value) + constant * _WEIGHT_BYTE, operators)


def replaced(old: Any, new: Any, value: torch.Tensor) -> Price:
    """An activation that becomes a clamp with bounds per channel."""
    return Price((_weight_of(new) - _weight_of(old)) * elementwise(value))


def _weight_of(target: Any) -> float:
    if target in _PLAIN:
        return _FUSED
    return _TWO_BOUNDS if target is aten.clamp.Tensor else 1.0


def copied_weight(weight: torch.Tensor) -> Price:
    """A second copy of a weight that several calls share."""
    return Price(weight.numel() * weight.element_size() * _WEIGHT_BYTE)
