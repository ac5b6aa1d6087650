"""The scale after a product moves before it, to one of the factors; the shift stays.

    s * (x * y) + t  =  (s * x) * y + t

Behind squeeze-and-excitation the scale goes into the layer that made the feature map. The gate is computed
from that map, too: its first layer gets the inverse.

Refuses: x * x, whose scale would have to be a square; factors that are broadcast along the channels.
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.fold.rules import _product
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule, left_behind


class ProductBackward(Rule):
    name = "product-backward"
    algebra = "s(xy) + t = (sx)y + t"
    direction = "backward"
    late = True
    operators = _product.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        factors, affine, axis = _product.factors(operator), pending.affine, pending.axis
        if factors is None:
            return _product.NO_PRODUCT
        if not affine.has_scale:
            return Refusal("a shift cannot pass a product")
        after = left_behind(affine.without_scale(), axis)
        scale = Pending(affine.only_scale(), axis)
        moves = tuple(
            Move(after=after, before={factor: scale})
            for factor in factors
            if _product.has_channels(factor, operator, axis)
        )
        return moves or Refusal("its factors are broadcast along the channels")

    def cases(self) -> list[Case]:
        class Gated(nn.Module):
            def __init__(self, channels: int, squeezed: int) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, channels, 3, padding=1)
                self.squeeze, self.excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
                self.norm, self.last = nn.BatchNorm2d(channels), nn.Conv2d(channels, 5, 3, padding=1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.conv(x)
                gate = self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
                z: torch.Tensor = self.last(nn.functional.silu(self.norm(y * torch.sigmoid(gate))))
                return z

        class Product(nn.Module):
            def __init__(self, channels: int, *, on_the_gate: bool = False) -> None:
                super().__init__()
                self.a, self.b = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(3, channels, 1)
                self.norm, self.on_the_gate = nn.BatchNorm2d(channels), on_the_gate

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.a(torch.sigmoid(x))
                if self.on_the_gate:
                    y, x = torch.tanh(y), x.mean((2, 3), keepdim=True)
                z: torch.Tensor = torch.tanh(self.norm(y * self.b(x)))
                return z

        class Squared(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.conv(x)
                z: torch.Tensor = torch.tanh(self.norm(y * y))
                return z

        return [
            Case("squeeze and excitation", lambda: Gated(4, 6), (2, 3, 13, 17), ("reduced",)),
            Case("squeeze and excitation, sizes equal", lambda: Gated(3, 3), (3, 3, 3, 3), ("reduced",)),
            Case("two convolutions", lambda: Product(4), (2, 3, 5, 6), ("reduced",)),
            Case("a gate that is linear", lambda: Product(4, on_the_gate=True), (2, 3, 5, 6), ("reduced",)),
            Case("a square", Squared, (2, 3, 5, 6), ("kept",)),
        ]
