"""An affine after averaging moves before it; under counted zero padding only its scale does.

    s * avg(x) + t  =  avg(s * x + t)

Averaging is linear and keeps constants, so the whole affine commutes: pooling, adaptive pooling, the mean
over spatial axes, and interpolation (the weights of nearest, bilinear and bicubic up-sampling add up to
one). Where padded zeros are counted (count_include_pad), avg(t) is smaller than t at the border: the
scale moves, the shift stays behind.

Refuses: averaging over the channels themselves; a divisor of the user's own for the shift (the average of
a constant is then another constant).
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.fold.rules import _average, _axes
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule, left_behind


class AverageBackward(Rule):
    name = "average-backward"
    algebra = "s avg(x) + t = avg(sx + t); with counted padding s avg(x) + t = avg(sx) + t"
    direction = "backward"
    operators = _average.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, axis = pending.affine, _axes.input_axis(operator, pending.axis)
        if axis is None:
            return Refusal("the channels of the BatchNorm are not those of the averaging")
        if affine.map is None and _average.keeps_constants(operator):
            return Move(before={operator.data: Pending(affine, axis)})
        if not affine.has_scale:
            return Refusal("a shift cannot pass: its padding is counted, or a map varies in the window")
        return Move(
            before={operator.data: Pending(affine.only_scale(), axis)},
            after=left_behind(affine.without_scale(), pending.axis),
        )

    def cases(self) -> list[Case]:
        def pooled(pool: nn.Module, norm: nn.Module | None = None) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 4, 3), pool, norm or nn.BatchNorm2d(4))

        class Mean(nn.Module):
            def __init__(self, *dims: int, keep: bool = False) -> None:
                super().__init__()
                self.dims, self.keep = dims, keep

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.mean(self.dims, self.keep)

        def enlarged(mode: str) -> nn.Module:
            return pooled(nn.Upsample(scale_factor=2, mode=mode))

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
            Case("mean", lambda: pooled(Mean(2, 3), nn.BatchNorm1d(4)), (4, 3, 6, 6), ("folded",)),
            Case("mean, kept", lambda: pooled(Mean(-1, -2, keep=True)), (4, 3, 6, 6), ("folded",)),
            Case("mean over one axis", lambda: pooled(Mean(2), nn.BatchNorm1d(4)), (4, 3, 6, 6), ("folded",)),
            Case(
                "mean over the channels", lambda: pooled(Mean(1), nn.BatchNorm1d(4)), (2, 3, 6, 7), ("kept",)
            ),
            Case("nearest", lambda: enlarged("nearest"), (4, 3, 6, 6), ("folded",)),
            Case("bilinear", lambda: enlarged("bilinear"), (2, 3, 5, 6), ("folded",)),
            Case("bicubic", lambda: enlarged("bicubic"), (2, 3, 5, 6), ("folded",)),
        ]
