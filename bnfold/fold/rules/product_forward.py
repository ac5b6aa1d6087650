"""A scale before a product with another value (a gate) moves behind it.

    (s * x) * y  =  s * (x * y)

Squeeze-and-excitation multiplies a feature map by one number per channel that depends on the input.

Refuses: a shift, since (x + t) * y = x * y + t * y; x * x; a value that is broadcast along the channels.
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.fold.rules import _product
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class ProductForward(Rule):
    name = "product-forward"
    algebra = "(sx)y = s(xy)"
    direction = "forward"
    operators = _product.OPERATORS
    any_input = True

    def match(self, operator: Operator, pending: Pending) -> Answer:
        if _product.factors(operator) is None:
            return _product.NO_PRODUCT
        assert operator.edge is not None
        if not _product.has_channels(operator.edge, operator, pending.axis):
            return Refusal("its channels are broadcast")
        if pending.affine.has_shift or pending.affine.map is not None:
            return Refusal("a shift cannot pass a product")
        return Move(after=pending)

    def cases(self) -> list[Case]:
        class Gated(nn.Module):
            def __init__(self, *, shift: bool) -> None:
                super().__init__()
                self.norm, self.gate = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
                if not shift:
                    self.norm = nn.BatchNorm2d(4, affine=False)
                self.shift = shift
                self.conv = nn.Conv2d(4, 3, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.norm(torch.sigmoid(x))
                gate = torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
                z: torch.Tensor = self.conv(y * gate)
                return z

        return [
            Case("a gate", lambda: Gated(shift=True), (2, 4, 5, 6), ("reduced",)),
            Case("a gate, sizes equal", lambda: Gated(shift=False), (4, 4, 4, 4), ("reduced",)),
        ]
