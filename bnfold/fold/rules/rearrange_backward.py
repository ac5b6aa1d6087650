"""An affine after an operator that only moves values moves before it.

    s * P(x) + t  =  P(s' * x + t')
        s', t': the channels in the order before P

P is a reshape, flatten, permutation, slice, repetition, pixel or channel shuffle: every output value is
one input value. The channels may land on another axis, as for a linear layer over (batch, length,
features) whose result is flattened to (batch * length, features) for its BatchNorm (LeViT).

Refuses: channels that no single axis before P tells apart (a flattened feature map has one channel per
position, a convolution before it only one per map).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from bnfold.fold.rules import _rearrange
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class RearrangeBackward(Rule):
    name = "rearrange-backward"
    algebra = "s P(x) + t = P(s'x + t') for a P that only moves values"
    direction = "backward"
    operators = _rearrange.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        if pending.affine.map is not None:
            return Refusal("a shift that differs at the border cannot be rearranged")
        found = _rearrange.backward(operator, pending.axis)
        if found is None:
            return Refusal("the channels of the BatchNorm lie on no single axis before it")
        axis, channels = found
        return Move(before={operator.data: Pending(pending.affine.take(channels), axis)})

    def cases(self) -> list[Case]:
        class LinearNorm(nn.Module):
            """LeViT's: the BatchNorm sees (batch * length, features)."""

            def __init__(self, inputs: int, outputs: int) -> None:
                super().__init__()
                self.linear, self.norm = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.linear(x)
                z: torch.Tensor = self.norm(y.flatten(0, 1)).reshape_as(y)
                return z

        class Transposed(LinearNorm):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                z: torch.Tensor = self.norm(self.linear(x).transpose(1, 2)).transpose(1, 2)
                return z

        class RowsSplit(LinearNorm):
            """The rows of a product become the channels."""

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.linear(x)
                z: torch.Tensor = self.norm(y.reshape(x.shape[0], y.shape[-1], -1))
                return z

        class Arranged(nn.Module):
            """A conv, what ``how`` makes of its answer, and a BatchNorm."""

            def __init__(self, channels: int, norm: int, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
                super().__init__()
                self.conv, self.norm, self.how = nn.Conv2d(3, channels, 1), nn.BatchNorm2d(norm), how

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.norm(self.how(self.conv(x)))
                return y

        def arranged(channels: int, norm: int, how: Callable[[torch.Tensor], torch.Tensor]) -> Arranged:
            return Arranged(channels, norm, how)

        def shuffled(channels: int, norm: int, shuffle: nn.Module) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, channels, 3), shuffle, nn.BatchNorm2d(norm))

        return [
            Case("flatten(0, 1), then reshape", lambda: LinearNorm(3, 5), (2, 4, 3), ("folded",)),
            Case("the same, sizes equal", lambda: LinearNorm(4, 4), (4, 4, 4), ("folded",)),
            Case("transposed", lambda: Transposed(3, 5), (2, 4, 3), ("folded",)),
            Case("transposed, sizes equal", lambda: Transposed(4, 4), (4, 4, 4), ("folded",)),
            Case("rows split, sizes equal", lambda: RowsSplit(4, 4), (4, 4, 4), ("kept",)),
            Case("tiled", lambda: arranged(4, 4, lambda y: y.tile(2, 3)), (2, 3, 5, 6), ("folded",)),
            Case(
                "tiled, sizes equal",
                lambda: arranged(3, 3, lambda y: y.tile(3)),
                (3, 3, 3, 3),
                ("folded",),
            ),
            Case(
                "tiled along the channels",
                lambda: arranged(2, 4, lambda y: y.tile(2, 1, 1)),
                (2, 3, 4, 4),
                ("kept",),
            ),
            Case(
                "broadcast",
                lambda: arranged(4, 4, lambda y: torch.broadcast_to(y[:, :, :1], (2, 4, 7, 6))),
                (2, 3, 5, 6),
                ("folded",),
            ),
            Case("turned", lambda: arranged(4, 4, lambda y: y.rot90(1, [2, 3])), (2, 3, 5, 6), ("folded",)),
            Case(
                "turned with its channels, sizes equal",
                lambda: arranged(3, 3, lambda y: y.rot90(1, [1, 3])),
                (3, 3, 3, 3),
                ("kept",),
            ),
            Case("pixel shuffle", lambda: shuffled(8, 2, nn.PixelShuffle(2)), (2, 3, 6, 7), ("folded",)),
            Case("pixel unshuffle", lambda: shuffled(2, 8, nn.PixelUnshuffle(2)), (2, 3, 6, 8), ("kept",)),
            Case("channel shuffle", lambda: shuffled(6, 6, nn.ChannelShuffle(3)), (6, 3, 8, 8), ("folded",)),
            Case(
                "flattened map",
                lambda: nn.Sequential(nn.Conv2d(3, 2, 2), nn.Flatten(), nn.BatchNorm1d(8)),
                (2, 3, 3, 3),
                ("kept",),
            ),
            Case(
                "flattened single position",
                lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(4)),
                (4, 3, 3, 3),
                ("folded",),
            ),
        ]
