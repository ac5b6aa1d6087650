"""An affine after a concatenation moves before it: each part gets its slice.

    s * [x, y] + t  =  [s[:n] * x + t[:n], s[n:] * y + t[n:]]
        joined along the channels
    s * [x, y] + t  =  [s * x + t, s * y + t]
        joined along another axis

Each part goes on to its own producer. A part that nothing can take (the network's input, a value that
others read) keeps a small affine of its own.

Refuses: one tensor that stands there twice.
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.fold.rules import _cat
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class ConcatenationBackward(Rule):
    name = "concatenation-backward"
    algebra = "s[x, y] + t = [s1 x + t1, s2 y + t2], each part its slice of s and t"
    direction = "backward"
    operators = _cat.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        parts, affine = _cat.parts(operator), pending.affine
        if parts is None:
            return Refusal("one tensor is joined to itself")
        if affine.map is not None:
            return Refusal("a shift that differs at the border cannot be cut up")
        if _cat.joined_axis(operator) != pending.axis:
            return Move(before={part: pending for part, _ in parts})
        before, start = {}, 0
        for part, size in parts:
            slice_ = affine.take(torch.arange(start, start + size).numpy())
            before[part], start = Pending(slice_, pending.axis), start + size
        return Move(before=before)

    def cases(self) -> list[Case]:
        class Joined(nn.Module):
            def __init__(self, parts: int, channels: int, *, raw: bool = False, dim: int = 1) -> None:
                super().__init__()
                self.convs = nn.ModuleList(nn.Conv2d(3, channels + i, 3, padding=1) for i in range(parts))
                self.raw, self.dim = raw, dim
                total = sum(channels + i for i in range(parts)) + 3 * raw
                self.norm = nn.BatchNorm2d(total if dim == 1 else channels)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                parts = [conv(x) for conv in self.convs] + ([x] if self.raw else [])
                joined: torch.Tensor = self.norm(torch.cat(parts, self.dim))
                return joined

        return [
            Case("two convs", lambda: Joined(2, 4), (2, 3, 5, 6), ("folded",)),
            Case("two convs and the input", lambda: Joined(2, 3, raw=True), (3, 3, 3, 3), ("kept",)),
            Case("along the height", lambda: Joined(1, 4, dim=2), (2, 3, 5, 6), ("folded",)),
        ]
