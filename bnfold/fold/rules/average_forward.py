"""An affine before averaging moves behind it, so that a layer there can take it.

    avg(s * x + t)  =  s * avg(x) + t
        pooling, adaptive pooling, the mean over spatial axes, interpolation
    avg(s * x + m)  =  s * avg(x) + avg(m)
        a shift where padded zeros are counted, or a map

Averaging is linear. The mean of a map over all positions is a shift again.

Refuses: averaging over the channels themselves; a map for a size that is not fixed.
"""

from __future__ import annotations

from torch import nn

from bnfold.fold.rules import _average, _axes, _frames
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class AverageForward(Rule):
    name = "average-forward"
    algebra = "avg(sx + t) = s avg(x) + t; with counted padding, or a map m, avg(sx + m) = s avg(x) + avg(m)"
    direction = "forward"
    operators = _average.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, axis = pending.affine, _axes.output_axis(operator, pending.axis)
        if axis is None:
            return Refusal("it averages over the BatchNorm's channels")
        if affine.map is None and (not affine.has_shift or _average.keeps_constants(operator)):
            return Move(after=Pending(affine, axis))
        frame = _frames.frame(operator, pending)
        averaged = None if frame is None or axis != 1 else _frames.through(operator, frame)
        if averaged is None:
            return Refusal("a shift cannot pass: its padding is counted, or a map varies in the window")
        return Move(after=Pending(_frames.behind(affine.scale, averaged), 1))

    def cases(self) -> list[Case]:
        def between(pool: nn.Module, head: nn.Module) -> nn.Module:
            return nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(3), pool, head)

        return [
            Case("unpadded", lambda: between(nn.AvgPool2d(2), nn.Conv2d(3, 4, 1)), (2, 3, 8, 9), ("folded",)),
            Case(
                "padding counted",
                lambda: between(nn.AvgPool2d(2, padding=1), nn.Conv2d(3, 4, 1)),
                (3, 3, 8, 8),
                ("reduced",),
            ),
            Case(
                "a map, then its mean",
                lambda: nn.Sequential(
                    between(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1)),
                    nn.Flatten(),
                    nn.Linear(4, 5),
                ),
                (2, 3, 4, 5),
                ("folded",),
            ),
            Case(
                "global, then a classifier",
                lambda: nn.Sequential(between(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(3, 5)),
                (2, 3, 4, 5),
                ("folded",),
            ),
            Case(
                "bilinear",
                lambda: between(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(3, 3, 3)),
                (3, 3, 4, 4),
                ("folded",),
            ),
        ]
