"""An affine before a convolution goes into its weight, and its shift into the bias, or into a map.

    W * (s x + t) + b  =  (W diag(s)) * x  +  (W * t + b)

The scale always passes: padding reads 0, and s * 0 = 0. The shift does not: inside, W * t is the same at
every position and joins the bias, but at the border of a zero-padded input some taps read 0, not t. So
without padding W * t is a bias; with zero padding it is a map, computed once for the (fixed) input size
and left pending behind the convolution as one addition. Transposed convolutions overlap at their borders:
always a map. Padding that repeats real values (reflect, replicate, circular) is an operator of its own in
the graph, and the convolution behind it is unpadded.

Weight: (out, in / groups, *kernel); transposed: (in, out / groups, *kernel).

Refuses: channels on another axis; a weight computed from the input; a map for a size that is not fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from bnfold.affine import Affine, Array
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
        if operator.node.target in _conv.PLAIN and not _conv.is_padded(operator) and affine.map is None:
            frame = affine.shift.reshape(-1, *[1] * (weight.ndim - 2))
            kernel = [1] * (weight.ndim - 2)
            summed = weight.sum(axis=tuple(range(2, weight.ndim))).reshape(weight.shape[0], -1, *kernel)
            constant = _grouped_product(summed, frame, operator.arguments["groups"])
            bias = bias_or_zeros(operator, weight.shape[0])
            if bias is None:
                return DATA_DEPENDENT
            weights["bias"] = bias + constant
            return Move(weights)
        spatial = operator.input_shape[2:]
        if any(size is None for size in spatial):
            return Refusal("the shift meets zero padding, and the size is not fixed")
        frame = np.broadcast_to(
            affine.shift.reshape(-1, *[1] * len(spatial)), (affine.channels, *[size or 0 for size in spatial])
        )
        if affine.map is not None:
            frame = frame + affine.map
        border = _conv.run_on_constant(operator, frame, weight)
        channels = border.shape[0]
        return Move(weights, after=left_behind(Affine(np.ones(channels), np.zeros(channels), border), 1))

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
                "map, then a second one",
                after_sigmoid(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)),
                (2, 3, 6, 7),
                ("reduced", "folded"),
            ),
        ]


def _grouped_product(weight: Array, frame: Array, groups: int) -> Array:
    """sum over in of weight (out, in / groups, 1...) times frame (in, 1...), group by group."""
    w = weight.reshape(groups, weight.shape[0] // groups, -1)
    x = frame.reshape(groups, -1)
    product: Array = np.einsum("goi,gi->go", w, x).reshape(-1)
    return product
