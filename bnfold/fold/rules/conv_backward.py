"""An affine after a convolution goes into its weight and bias.

    s * (W * x + b) + t  =  (s W) * x + (s b + t)

W has shape (out, in / groups, *kernel): row c makes output channel c, whatever the groups, so each row is
scaled by its own s. Padding does not matter: it is on the input side. 1-D, 2-D and 3-D, strided, dilated,
grouped and depthwise. A convolution without a bias gets one.

Refuses: channels on another axis than the convolution's; a weight computed from the input.
Leaves: a map that varies over the output's positions (no weight can hold it).
"""

from __future__ import annotations

from torch import nn

from bnfold.fold.rules import _conv
from bnfold.fold.rules._base import (
    DATA_DEPENDENT,
    Answer,
    Case,
    Move,
    Operator,
    Pending,
    Refusal,
    Rule,
    bias_or_zeros,
    left_behind,
)


class ConvBackward(Rule):
    name = "conv-backward"
    algebra = "s(W*x + b) + t = (sW)*x + (sb + t)"
    direction = "backward"
    operators = _conv.PLAIN

    def match(self, operator: Operator, pending: Pending) -> Answer:
        weight, affine = operator.constant("weight"), pending.on(1, operator.output_shape[1])
        if weight is None:
            return DATA_DEPENDENT
        if not _conv.is_batched(operator, weight) or affine is None:
            return Refusal("the channels of the BatchNorm are not on the convolution's channel axis")
        bias = bias_or_zeros(operator, affine.channels)
        if bias is None:
            return DATA_DEPENDENT
        return Move(
            weights={
                "weight": _conv.scale_first_axis(weight, affine.scale),
                "bias": affine.scale * bias + affine.shift,
            },
            after=left_behind(affine.only_map(), 1),
        )

    def cases(self) -> list[Case]:
        def pair(conv: nn.Module, norm: nn.Module) -> nn.Module:
            return nn.Sequential(conv, norm)

        return [
            Case("1-D", lambda: pair(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5)), (2, 3, 11), ("folded",)),
            Case(
                "2-D padded",
                lambda: pair(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)),
                (2, 3, 7, 8),
                ("folded",),
            ),
            Case(
                "no bias",
                lambda: pair(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)),
                (2, 3, 7, 8),
                ("folded",),
            ),
            Case(
                "grouped",
                lambda: pair(nn.Conv2d(6, 4, 3, groups=2), nn.BatchNorm2d(4)),
                (2, 6, 7, 8),
                ("folded",),
            ),
            Case(
                "depthwise, multiplier 2",
                lambda: pair(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)),
                (2, 3, 7, 8),
                ("folded",),
            ),
            Case(
                "all sizes equal",
                lambda: pair(nn.Conv2d(4, 4, 1, groups=2), nn.BatchNorm2d(4)),
                (4, 4, 4, 4),
                ("folded",),
            ),
            Case(
                "3-D",
                lambda: pair(nn.Conv3d(2, 3, 2, stride=2), nn.BatchNorm3d(3)),
                (1, 2, 4, 6, 8),
                ("folded",),
            ),
            Case(
                "padding='same'",
                lambda: pair(nn.Conv2d(3, 5, 3, padding="same"), nn.BatchNorm2d(5)),
                (2, 3, 7, 8),
                ("folded",),
            ),
            Case(
                "dilated and strided",
                lambda: pair(nn.Conv2d(3, 5, 3, stride=2, dilation=2), nn.BatchNorm2d(5)),
                (2, 3, 9, 8),
                ("folded",),
            ),
            Case(
                "an activation between",
                lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.Sigmoid(), nn.BatchNorm2d(5), nn.Sigmoid()),
                (2, 3, 7, 8),
                ("kept",),
            ),
        ]
