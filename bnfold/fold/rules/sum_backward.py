"""An affine after a sum of branches moves before it: the scale to both, the shift to one.

    s * (x + y) + t  =  (s * x + t) + s * y  =  s * x + (s * y + t)

Each term goes on to its own producer, a convolution for instance. A term that others read as well (a
residual stream) keeps a multiplication of its own.

Refuses: x + x, and terms that are broadcast along the channels.
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.fold.rules import _sum
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class SumBackward(Rule):
    name = "sum-backward"
    algebra = "s(x + y) + t = (sx + t) + sy"
    direction = "backward"
    operators = _sum.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        found, affine = _sum.terms(operator), pending.affine
        if found is None or not _sum.same_shape(operator, pending):
            return Refusal("its terms are not two tensors with the BatchNorm's channels")
        a, b, sign = found
        scale = affine.only_scale()
        other = affine if sign > 0 else affine.negated_shift()
        answers = []
        for first, second in ((affine, scale), (scale, other)):
            before = {
                term: Pending(part, pending.axis)
                for term, part in ((a, first), (b, second))
                if not part.is_identity
            }
            answers.append(Move(before=before))
        return tuple(answers)

    def cases(self) -> list[Case]:
        class Sum(nn.Module):
            def __init__(self, sign: int = 1, *, residual: bool = False) -> None:
                super().__init__()
                self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1, bias=False)
                self.norm, self.sign, self.residual = nn.BatchNorm2d(3), sign, residual

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.a(torch.sigmoid(x))
                other = torch.tanh(x) if self.residual else self.b(torch.tanh(x))
                z: torch.Tensor = self.norm(y + other if self.sign > 0 else y - other)
                return z

        return [
            Case("two convs", Sum, (2, 3, 4, 5), ("folded",)),
            Case("a difference", lambda: Sum(-1), (3, 3, 3, 3), ("folded",)),
            Case("a conv and another value", lambda: Sum(residual=True), (2, 3, 4, 5), ("reduced",)),
        ]
