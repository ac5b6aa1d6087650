"""An affine on one term of a sum moves behind it; the other term is divided by the scale.

    (s * x + t) + y  =  s * (x + y / s) + t
    (x + t) + y      =  (x + y) + t
    (x + t) + y      =  x + (y + t)        a shift alone may go to the other

1 / s is pending on the other term and goes on to its producer, or meets an affine that is pending there
already: a residual stream of which both terms are normalised keeps one multiplication, not two.

Refuses: scales that cannot be divided by; x + x; terms that are broadcast along the channels.
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.fold.rules import _sum
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class SumForward(Rule):
    name = "sum-forward"
    algebra = "(sx + t) + y = s(x + y/s) + t"
    direction = "forward"
    rounds_more = True
    operators = _sum.OPERATORS
    any_input = True

    def match(self, operator: Operator, pending: Pending) -> Answer:
        found, affine = _sum.terms(operator), pending.affine
        if found is None or not _sum.same_shape(operator, pending):
            return Refusal("its terms are not two tensors with the BatchNorm's channels")
        a, b, sign = found
        other = b if operator.edge is a else a
        after = affine.negated_shift() if operator.edge is b and sign < 0 else affine
        if not affine.has_scale:
            beside = affine if sign > 0 else affine.negated_shift()
            return (
                Move(after=Pending(after, pending.axis)),
                Move(before={other: Pending(beside, pending.axis)}),
            )
        inverse = affine.only_scale().inverse()
        if inverse is None:
            return Refusal("a scale near 0 cannot be divided by")
        return Move(after=Pending(after, pending.axis), before={other: Pending(inverse, pending.axis)})

    def cases(self) -> list[Case]:
        class Sum(nn.Module):
            """A normalised value plus a conv or another normalised value, then a conv."""

            def __init__(self, *, both: bool, sign: int = 1) -> None:
                super().__init__()
                self.norm, self.both, self.sign = nn.BatchNorm2d(3), both, sign
                self.other = nn.BatchNorm2d(3) if both else nn.Conv2d(3, 3, 3, padding=1)
                self.conv = nn.Conv2d(3, 4, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y, z = self.norm(torch.sigmoid(x)), self.other(torch.tanh(x))
                w: torch.Tensor = self.conv(y + z if self.sign > 0 else z - y)
                return w

        class Returned(Sum):
            def __init__(self) -> None:
                super().__init__(both=False)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.norm(torch.sigmoid(x)) + self.other(torch.tanh(x))
                return y

        return [
            Case("a conv beside it", lambda: Sum(both=False), (2, 3, 4, 5), ("folded",)),
            Case("subtracted from a conv", lambda: Sum(both=False, sign=-1), (3, 3, 3, 3), ("folded",)),
            Case("a conv beside it, the sum an output", Returned, (2, 3, 4, 5), ("reduced",)),
            Case("a BatchNorm beside it", lambda: Sum(both=True), (2, 3, 4, 5), ("reduced", "folded")),
        ]
