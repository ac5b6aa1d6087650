"""What the two averaging rules share: the operators, and when they keep a constant frame as it is."""

from __future__ import annotations

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
        aten._upsample_nearest_exact1d.vec,
        aten._upsample_nearest_exact2d.vec,
        aten._upsample_nearest_exact3d.vec,
        aten._upsample_bilinear2d_aa.vec,
        aten._upsample_bicubic2d_aa.vec,
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
