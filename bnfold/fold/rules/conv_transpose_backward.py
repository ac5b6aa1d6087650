"""An affine after a transposed convolution goes into its weight and bias.

    s * (W^T * x + b) + t  =  (s W)^T * x + (s b + t)

W has shape (in, out / groups, *kernel): input channels are the rows, and group i of the rows writes group
i of the output channels. So the scale is applied as

    W.reshape(g, in/g, out/g, ...) * s.reshape(g, 1, out/g, ...)

Scaling axis 0, or axis 1 without the groups, is the field's most common folding bug.

Refuses: channels on another axis; a weight computed from the input.
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


class ConvTransposeBackward(Rule):
    name = "conv-transpose-backward"
    algebra = "s(W^T*x + b) + t = (sW)^T*x + (sb + t), s per group of output channels"
    direction = "backward"
    operators = _conv.TRANSPOSED

    def match(self, operator: Operator, pending: Pending) -> Answer:
        weight, affine = operator.constant("weight"), pending.on(1, operator.output_shape[1])
        if weight is None:
            return DATA_DEPENDENT
        if not _conv.is_batched(operator, weight) or affine is None:
            return Refusal("the channels of the BatchNorm are not on the convolution's channel axis")
        bias = bias_or_zeros(operator, affine.channels)
        if bias is None:
            return DATA_DEPENDENT
        groups = operator.arguments["groups"]
        return Move(
            weights={
                "weight": _conv.scale_second_axis(weight, affine.scale, groups),
                "bias": affine.scale * bias + affine.shift,
            },
            after=left_behind(affine.only_map(), 1),
        )

    def cases(self) -> list[Case]:
        def pair(conv: nn.Module, norm: nn.Module) -> nn.Module:
            return nn.Sequential(conv, norm)

        return [
            Case(
                "1-D",
                lambda: pair(nn.ConvTranspose1d(3, 5, 3, stride=2), nn.BatchNorm1d(5)),
                (2, 3, 7),
                ("folded",),
            ),
            Case(
                "2-D",
                lambda: pair(nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5)),
                (2, 3, 7, 8),
                ("folded",),
            ),
            Case(
                "square",
                lambda: pair(nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4)),
                (4, 4, 4, 4),
                ("folded",),
            ),
            Case(
                "2 groups of 3",
                lambda: pair(nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)),
                (2, 4, 5, 7),
                ("folded",),
            ),
            Case(
                "2 groups, square",
                lambda: pair(nn.ConvTranspose2d(4, 4, 2, groups=2), nn.BatchNorm2d(4)),
                (1, 4, 4, 4),
                ("folded",),
            ),
            Case(
                "depthwise, multiplier 2",
                lambda: pair(nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)),
                (2, 3, 5, 7),
                ("folded",),
            ),
            Case(
                "output padding",
                lambda: pair(nn.ConvTranspose2d(3, 5, 3, stride=2, output_padding=1), nn.BatchNorm2d(5)),
                (2, 3, 5, 7),
                ("folded",),
            ),
            Case(
                "3-D, grouped",
                lambda: pair(nn.ConvTranspose3d(4, 6, 2, groups=2), nn.BatchNorm3d(6)),
                (1, 4, 3, 4, 5),
                ("folded",),
            ),
        ]
