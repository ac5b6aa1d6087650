"""An affine before an operator that only moves values moves behind it.

    P(s * x + t)  =  s' * P(x) + t'
        s', t': the channels in the order after P

P is a reshape, flatten, permutation, slice, repetition, pixel or channel shuffle. A flatten before a
classifier repeats each channel's s and t for every position: (C, H, W) -> C * H * W features. A split is
several slices.

A map, a shift that differs at the border, passes where every position is a feature of its own afterwards.

Refuses: channels that no single axis after P tells apart.
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.affine import Affine
from bnfold.fold.rules import _frames, _rearrange
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class RearrangeForward(Rule):
    name = "rearrange-forward"
    algebra = "P(sx + t) = s'P(x) + t' for a P that only moves values"
    direction = "forward"
    operators = _rearrange.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, found = pending.affine, _rearrange.forward(operator, pending.axis)
        if found is None:
            return Refusal("it puts the BatchNorm's channels on no single axis")
        axis, channels = found
        if affine.map is None:
            return Move(after=Pending(affine.take(channels), axis))
        frame = _frames.frame(operator, pending)
        moved = None if frame is None else _rearrange.values(operator, frame, axis)
        if moved is None:
            return Refusal("a shift that differs at the border is not rearranged onto a single axis")
        return Move(after=Pending(Affine(affine.scale[channels], moved), axis))

    def cases(self) -> list[Case]:
        class Run(nn.Module):
            """BatchNorm after a sigmoid, then what ``how`` says."""

            def __init__(self, norm: nn.Module, how: str, *heads: nn.Module) -> None:
                super().__init__()
                self.norm, self.how, self.heads = norm, how, nn.ModuleList(heads)

            def forward(self, x: torch.Tensor) -> object:
                y = self.norm(torch.sigmoid(x))
                if self.how == "tokens":
                    return self.heads[0](y.flatten(2).transpose(1, 2))
                pieces = y.chunk(2, 1) if self.how == "chunk" else y.split([1, y.shape[1] - 1], 1)
                return tuple(head(piece) for head, piece in zip(self.heads, pieces, strict=True))

        def flattened(channels: int, features: int) -> nn.Module:
            return nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(channels), nn.Flatten(), nn.Linear(features, 5))

        def conv(inputs: int) -> nn.Module:
            return nn.Conv2d(inputs, 4, 1)

        return [
            Case("flatten", lambda: flattened(3, 3 * 4 * 5), (2, 3, 4, 5), ("folded",)),
            Case(
                "flatten a map",
                lambda: nn.Sequential(
                    nn.Sigmoid(),
                    nn.BatchNorm2d(3),
                    nn.Conv2d(3, 4, 3, padding=1),
                    nn.Flatten(),
                    nn.Linear(80, 2),
                ),
                (2, 3, 4, 5),
                ("folded",),
            ),
            Case("flatten, sizes equal", lambda: flattened(3, 27), (3, 3, 3, 3), ("folded",)),
            Case(
                "to tokens",
                lambda: Run(nn.BatchNorm2d(3), "tokens", nn.Linear(3, 4)),
                (2, 3, 4, 5),
                ("folded",),
            ),
            Case(
                "to tokens, sizes equal",
                lambda: Run(nn.BatchNorm2d(4), "tokens", nn.Linear(4, 4)),
                (4, 4, 2, 2),
                ("folded",),
            ),
            Case(
                "chunk",
                lambda: Run(nn.BatchNorm2d(4), "chunk", conv(2), conv(2)),
                (2, 4, 5, 6),
                ("folded",),
            ),
            Case(
                "split",
                lambda: Run(nn.BatchNorm2d(4), "split", conv(1), conv(3)),
                (4, 4, 4, 4),
                ("folded",),
            ),
            Case(
                "pixel shuffle",
                lambda: nn.Sequential(
                    nn.Sigmoid(), nn.BatchNorm2d(8), nn.PixelShuffle(2), nn.Conv2d(2, 3, 3)
                ),
                (2, 8, 3, 4),
                ("kept",),
            ),
            Case(
                "channel shuffle",
                lambda: nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(6), nn.ChannelShuffle(2), conv(6)),
                (6, 6, 6, 6),
                ("folded",),
            ),
        ]
