"""The magnitude of a scale moves before an operator that is positively homogeneous.

    s * f(x) + t  =  sgn(s) * f(|s| * x) + t
        f: relu, leaky relu, prelu, abs
    s * max(x) + t  =  sgn(s) * max(|s| * x + sgn(s) * t)
        max pooling: its shift moves too

f(a x) = a f(x) for a > 0, so |s| goes on to the layer before; the sign and the shift stay. Max pooling
also commutes with a shift. Where all s are positive nothing of the scale is left behind.

Refuses: a scale of which all magnitudes are 1 already; channels among the axes that a pooling reduces.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bnfold.affine import Affine
from bnfold.fold.rules import _axes, _homogeneous
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule, left_behind


class HomogeneousBackward(Rule):
    name = "homogeneous-backward"
    algebra = "s f(x) + t = sgn(s) f(|s|x) + t for relu, leaky relu, prelu, abs; max pooling takes t along"
    direction = "backward"
    operators = _homogeneous.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, axis = pending.affine, _axes.input_axis(operator, pending.axis)
        if axis is None:
            return Refusal("the channels of the BatchNorm are not those of its input")
        if affine.map is not None:
            return Refusal("a shift that differs at the border cannot pass")
        sign = np.where(affine.scale < 0, -1.0, 1.0)
        zeros = np.zeros_like(sign)
        # a dead channel is constant behind any of these, so its scale stays
        sign = np.where(affine.scale == 0, 0.0, sign)
        size = affine.magnitude()
        if _homogeneous.passes_shift(operator) and not (affine.scale == 0).any():
            before, after = Affine(size.scale, sign * affine.shift), Affine(sign, zeros)
        else:
            before, after = size, Affine(sign, affine.shift)
        if before.is_identity:
            return Refusal("only the sign and the shift are left, which cannot pass")
        return Move(before={operator.data: Pending(before, axis)}, after=left_behind(after, pending.axis))

    def cases(self) -> list[Case]:
        class Abs(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.abs()

        def after(f: nn.Module) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 4, 3), f, nn.BatchNorm2d(4))

        return [
            Case("max pool", lambda: after(nn.MaxPool2d(2)), (2, 3, 8, 9), ("reduced",)),
            Case("max pool, padded", lambda: after(nn.MaxPool2d(3, 2, 1)), (4, 3, 8, 8), ("reduced",)),
            Case("leaky relu", lambda: after(nn.LeakyReLU(0.1)), (2, 3, 8, 9), ("kept",)),
            Case("abs", lambda: after(Abs()), (2, 3, 8, 9), ("kept",)),
        ]
