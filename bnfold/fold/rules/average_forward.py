"""An affine before averaging moves behind it, so that a layer there can take it.

    avg(s * x + t)  =  s * avg(x) + t

The same algebra as backward: pooling, adaptive pooling, the mean over spatial axes, and interpolation.
Where padded zeros are counted, only a scale passes: avg(s x) = s avg(x).

Refuses: averaging over the channels themselves; a shift where zeros are counted.
"""

from __future__ import annotations

from torch import nn

from bnfold.fold.rules import _average, _axes
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class AverageForward(Rule):
    name = "average-forward"
    algebra = "avg(sx + t) = s avg(x) + t; with counted padding avg(sx) = s avg(x)"
    direction = "forward"
    operators = _average.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        axis = _axes.output_axis(operator, pending.axis)
        if axis is None:
            return Refusal("it averages over the BatchNorm's channels")
        only_scale = pending.affine.map is None and not pending.affine.has_shift
        if not only_scale and (pending.affine.map is not None or not _average.keeps_constants(operator)):
            return Refusal("a shift cannot pass: its padding is counted, or a map varies in the window")
        return Move(after=Pending(pending.affine, axis))

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
