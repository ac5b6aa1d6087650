"""An affine after average pooling moves before it; under counted zero padding only its scale does.

    s * avg(x) + t  =  avg(s * x + t)

Averaging is linear and keeps constants, so the whole affine commutes, as long as every window averages real
values only. Where padded zeros are counted (count_include_pad), avg(t) is smaller than t at the border: the
scale moves, the shift stays behind.

Refuses: a divisor of the user's own for the shift (the average of a constant is then another constant).
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.fold.rules._base import Case, Move, Operator, Pending, Refusal, Rule, left_behind

aten = torch.ops.aten


class AveragePoolBackward(Rule):
    name = "average-pool-backward"
    algebra = "s avg(x) + t = avg(sx + t); with counted padding s avg(x) + t = avg(sx) + t"
    direction = "backward"
    operators = frozenset(
        {
            aten.avg_pool1d.default,
            aten.avg_pool2d.default,
            aten.avg_pool3d.default,
            aten.adaptive_avg_pool1d.default,
            aten.adaptive_avg_pool2d.default,
            aten.adaptive_avg_pool3d.default,
        }
    )

    def match(self, operator: Operator, pending: Pending) -> Move | Refusal:
        affine = pending.affine
        name = str(operator.node.target)
        spatial = int(name.split("pool")[1][0])
        if len(operator.input_shape) != spatial + 2 or pending.axis != 1:
            return Refusal("the channels of the BatchNorm are not on the pooling's channel axis")
        if keeps_constants(operator) and affine.map is None:
            return Move(before=pending)
        if not affine.has_scale:
            return Refusal("the pooling counts its zero padding, which a shift cannot pass")
        return Move(
            before=Pending(affine.only_scale(), pending.axis),
            after=left_behind(affine.without_scale(), pending.axis),
        )

    def cases(self) -> list[Case]:
        def pooled(pool: nn.Module, norm: nn.Module | None = None) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 4, 3), pool, norm or nn.BatchNorm2d(4))

        return [
            Case("unpadded", lambda: pooled(nn.AvgPool2d(2)), (2, 3, 8, 9), ("folded",)),
            Case("padding counted", lambda: pooled(nn.AvgPool2d(2, padding=1)), (2, 3, 8, 9), ("reduced",)),
            Case(
                "padding not counted",
                lambda: pooled(nn.AvgPool2d(2, padding=1, count_include_pad=False)),
                (2, 3, 8, 9),
                ("folded",),
            ),
            Case(
                "ceil mode",
                lambda: pooled(nn.AvgPool2d(2, stride=2, ceil_mode=True)),
                (2, 3, 9, 9),
                ("folded",),
            ),
            Case("divisor", lambda: pooled(nn.AvgPool2d(2, divisor_override=3)), (2, 3, 8, 9), ("reduced",)),
            Case("adaptive", lambda: pooled(nn.AdaptiveAvgPool2d((3, 2))), (2, 3, 8, 9), ("folded",)),
        ]


def keeps_constants(operator: Operator) -> bool:
    """Whether the pooling of a constant frame is that constant everywhere."""
    arguments = operator.arguments
    if "kernel_size" not in arguments:
        return True  # adaptive: windows lie inside the input
    if arguments.get("divisor_override") is not None:
        return False
    return all(size == 0 for size in arguments["padding"]) or not arguments["count_include_pad"]
