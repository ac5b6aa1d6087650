"""The magnitude of a scale moves before an operator that is positively homogeneous.

    s * f(x) + t  =  sgn(s) * f(|s| * x) + t
        f: relu, leaky relu, prelu, abs
    s * f_a(x)    =  f_{1/a}(a s * x), s < 0 < a
        leaky relu and prelu, whose slope is turned round: the sign passes too
    s * max(x) + t  =  sgn(s) * max(|s| * x + sgn(s) * t)
        max pooling: its shift moves too

f(a x) = a f(x) for a >= 0, so |s| goes on to the layer before, that of a dead channel (s = 0) as well; the
sign and the shift stay. Max pooling also commutes with a shift. Where all s are positive nothing of the scale
is left behind.

Refuses: a scale of which all magnitudes are 1 already; channels among the axes that a pooling reduces.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bnfold.affine import Affine
from bnfold.fold.rules import _axes, _homogeneous, _monotone
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule, left_behind

aten = torch.ops.aten


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
        sign, size = np.where(affine.scale < 0, -1.0, 1.0), np.abs(affine.scale)
        zeros = np.zeros_like(sign)
        if _homogeneous.passes_shift(operator):
            before, after = Affine(size, sign * affine.shift), Affine(sign, zeros)
        else:
            before, after = Affine(size, zeros), Affine(sign, affine.shift)
        turned = self._turned(operator, pending)
        if before.is_identity:
            return turned or Refusal("only the sign and the shift are left, which cannot pass")
        move = Move(before={operator.data: Pending(before, axis)}, after=left_behind(after, pending.axis))
        return move if turned is None else (move, turned)

    def _turned(self, operator: Operator, pending: Pending) -> Move | None:
        """s f_a(x) = f_{1/a}(a s x) where s < 0."""
        affine, negative = pending.affine, pending.affine.scale < 0
        slope = _monotone.slopes(operator, affine.channels) if pending.axis == 1 and negative.any() else None
        if slope is None or not (slope[negative] > 0).all():
            return None
        before = Affine(np.where(negative, slope * affine.scale, affine.scale), np.zeros_like(slope))
        return Move(
            {"weight": _monotone.turned(slope, negative)},
            before={operator.data: Pending(before, 1)},
            after=left_behind(affine.without_scale(), 1),
            becomes=aten.prelu.default,
        )

    def cases(self) -> list[Case]:
        class Abs(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.abs()

        def after(f: nn.Module) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 4, 3), f, nn.BatchNorm2d(4))

        return [
            Case("max pool", lambda: after(nn.MaxPool2d(2)), (2, 3, 8, 9), ("reduced",)),
            Case("max pool, padded", lambda: after(nn.MaxPool2d(3, 2, 1)), (4, 3, 8, 8), ("reduced",)),
            Case("leaky relu", lambda: after(nn.LeakyReLU(0.1)), (2, 3, 8, 9), ("reduced",)),
            Case("prelu", lambda: after(nn.PReLU(4)), (4, 3, 6, 6), ("reduced",)),
            Case("prelu that falls", lambda: after(nn.PReLU(init=-0.25)), (2, 3, 8, 9), ("kept",)),
            Case("abs", lambda: after(Abs()), (2, 3, 8, 9), ("kept",)),
        ]
