"""What the two averaging rules share: the operators, and when they keep a constant frame as it is."""

from __future__ import annotations

from typing import Any

import torch

from bnfold.fold.rules._base import Operator

aten = torch.ops.aten

POOLS = frozenset(
    {
        aten.avg_pool1d.default,
        aten.avg_pool2d.default,
        aten.avg_pool3d.default,
        aten.adaptive_avg_pool1d.default,
        aten.adaptive_avg_pool2d.default,
        aten.adaptive_avg_pool3d.default,
    }
)
UPSAMPLING = frozenset(
    {
        aten.upsample_nearest1d.vec,
        aten.upsample_nearest2d.vec,
        aten.upsample_nearest3d.vec,
        aten.upsample_linear1d.vec,
        aten.upsample_bilinear2d.vec,
        aten.upsample_trilinear3d.vec,
        aten.upsample_bicubic2d.vec,
    }
)
MEANS = frozenset({aten.mean.dim})
OPERATORS = POOLS | UPSAMPLING | MEANS


def keeps_constants(operator: Operator) -> bool:
    """Whether the average of a constant frame is that constant everywhere."""
    arguments = operator.arguments
    if operator.node.target not in POOLS or "kernel_size" not in arguments:
        return True  # windows lie inside the input; the weights of an interpolation add up to one
    if arguments.get("divisor_override") is not None:
        return False
    return all(size == 0 for size in arguments["padding"]) or not arguments["count_include_pad"]


def output_axis(operator: Operator, axis: int) -> int | None:
    """Where the channels of an input axis are in the output; None where the operator averages over them."""
    rank = len(operator.input_shape)
    if operator.node.target not in MEANS:
        spatial = _spatial(operator.node.target)
        return axis if axis < rank - spatial else None
    dims = operator.arguments["dim"]
    averaged = {dim % rank for dim in dims} if dims else set(range(rank))
    if axis in averaged:
        return None
    return axis if operator.arguments["keepdim"] else axis - sum(dim < axis for dim in averaged)


def input_axis(operator: Operator, axis: int) -> int | None:
    """Where the channels of an output axis come from; None where several positions are averaged."""
    for candidate in range(len(operator.input_shape)):
        if output_axis(operator, candidate) == axis:
            return candidate
    return None


def _spatial(target: Any) -> int:
    """Spatial axes, by the digit in the operator's name."""
    return next(int(letter) for letter in target._opname if letter.isdigit())
