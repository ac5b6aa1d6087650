"""An affine before a convolution goes into its weight, and its shift into the bias, or into a map.

    W * (s x + t) + b  =  (W diag(s)) * x  +  (W * t + b)

The scale always passes: padding reads 0, and s * 0 = 0. The shift does not: inside, W * t is the same at
every position and joins the bias, but at the border of a zero-padded input some taps read 0, not t. So
without padding W * t is a bias; with zero padding it is a map, computed once for the (fixed) input size
and left pending behind the convolution as one addition. Transposed convolutions overlap at their borders: a
map too, unless it is the same everywhere. Padding that repeats real values (reflect, replicate,
circular) is an operator of its own in the graph, and the convolution behind it is unpadded.

Weight: (out, in / groups, *kernel); transposed: (in, out / groups, *kernel).

Refuses: channels on another axis; a weight computed from the input; a map for a size that is not fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from bnfold.affine import Array
from bnfold.fold.rules import _conv, _frames
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
)


class ConvForward(Rule):
    name = "conv-forward"
    algebra = "W*(sx + t) + b = (W diag s)*x + (b + W*t); zero padding makes W*t a map over positions"
    direction = "forward"
    operators = _conv.PLAIN | _conv.TRANSPOSED

    def match(self, operator: Operator, pending: Pending) -> Answer:
        weight, affine = operator.constant("weight"), pending.on(1, operator.input_shape[1])
        if weight is None:
            return DATA_DEPENDENT
        if not _conv.is_batched(operator, weight) or affine is None:
            return Refusal("the channels of the BatchNorm are not on the convolution's channel axis")
        weights: dict[str, Array] = {"weight": self._scaled(operator, weight, affine.scale)}
        if not affine.has_shift and affine.map is None:
            return Move(weights)
        bias = bias_or_zeros(operator, operator.output_shape[1] or 0)
        if bias is None:
            return DATA_DEPENDENT
        if operator.node.target in _conv.PLAIN and not _conv.is_padded(operator) and affine.map is None:
            summed = weight.sum(axis=tuple(range(2, weight.ndim)))
            weights["bias"] = bias + _grouped_product(summed, affine.shift, operator.arguments["groups"])
            return Move(weights)
        frame = _frames.frame(operator, Pending(affine, 1))
        border = None if frame is None else _frames.through(operator, frame, weight=weight, bias=None)
        if border is None:
            return Refusal("the shift meets zero padding, and the size is not fixed")
        after = _frames.behind(np.ones(len(border)), border)
        if after.map is None:
            weights["bias"] = bias + after.shift
            return Move(weights)
        return Move(weights, after=Pending(after, 1))

    def _scaled(self, operator: Operator, weight: Array, scale: Array) -> Array:
        if operator.node.target in _conv.TRANSPOSED:
            return _conv.scale_first_axis(weight, scale)
        return _conv.scale_second_axis(weight, scale, operator.arguments["groups"])

    def cases(self) -> list[Case]:
        def after_sigmoid(*rest: nn.Module) -> Callable[[], nn.Module]:
            return lambda: nn.Sequential(nn.Sigmoid(), *rest)

        return [
            Case("unpadded", after_sigmoid(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3)), (2, 3, 7, 8), ("folded",)),
            Case(
                "1-D, no bias",
                after_sigmoid(nn.BatchNorm1d(3), nn.Conv1d(3, 5, 2, bias=False)),
                (2, 3, 9),
                ("folded",),
            ),
            Case(
                "grouped",
                after_sigmoid(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, groups=2)),
                (2, 6, 7, 8),
                ("folded",),
            ),
            Case(
                "depthwise",
                after_sigmoid(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4)),
                (4, 4, 4, 4),
                ("folded",),
            ),
            Case("3-D", after_sigmoid(nn.BatchNorm3d(2), nn.Conv3d(2, 3, 2)), (1, 2, 4, 5, 6), ("folded",)),
            Case(
                "padding='valid'",
                after_sigmoid(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3, padding="valid")),
                (2, 3, 7, 8),
                ("folded",),
            ),
            Case(
                "zero padding",
                after_sigmoid(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3, padding=1)),
                (2, 3, 7, 8),
                ("reduced",),
            ),
            Case(
                "padding='same', even kernel",
                after_sigmoid(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 2, padding="same")),
                (2, 3, 7, 8),
                ("reduced",),
            ),
            Case(
                "padding='same', 1x1",
                after_sigmoid(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1, padding="same")),
                (2, 3, 7, 8),
                ("folded",),
            ),
            Case(
                "zero padding, grouped, strided",
                after_sigmoid(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, 2, 1, groups=2)),
                (2, 6, 7, 8),
                ("reduced",),
            ),
            Case(
                "transposed",
                after_sigmoid(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 5, 3, 2)),
                (2, 3, 4, 5),
                ("reduced",),
            ),
            Case(
                "transposed, grouped, square",
                after_sigmoid(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 2, groups=2)),
                (1, 4, 4, 4),
                ("reduced",),
            ),
            Case(
                "transposed, 1 x 1",
                after_sigmoid(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 1, groups=2, bias=False)),
                (2, 4, 3, 5),
                ("folded",),
            ),
            Case(
                "map, then a second one",
                after_sigmoid(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)),
                (2, 3, 6, 7),
                ("reduced", "folded"),
            ),
        ]


def _grouped_product(weight: Array, shift: Array, groups: int) -> Array:
    """sum over in of weight (out, in / groups) times shift (in), group by group."""
    w = weight.reshape(groups, weight.shape[0] // groups, -1)
    x = shift.reshape(groups, -1)
    product: Array = np.einsum("goi,gi->go", w, x).reshape(-1)
    return product
