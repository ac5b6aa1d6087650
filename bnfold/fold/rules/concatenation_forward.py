"""An affine before a concatenation moves behind it; the other parts get s = 1, t = 0.

    [s * x + t, y]  =  [s, 1] * [x, y] + [t, 0]        joined along the channels

It is worth it where a layer behind takes the whole.

Refuses: parts that are joined along another axis than the channels; one tensor that stands there twice.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bnfold.affine import Affine
from bnfold.fold.rules import _cat
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class ConcatenationForward(Rule):
    name = "concatenation-forward"
    algebra = "[sx + t, y] = [s, 1][x, y] + [t, 0]"
    direction = "forward"
    operators = _cat.OPERATORS
    any_input = True

    def match(self, operator: Operator, pending: Pending) -> Answer:
        parts, affine = _cat.parts(operator), pending.affine
        if parts is None or affine.map is not None:
            return Refusal("it is joined to itself" if parts is None else "its shift differs at the border")
        if _cat.joined_axis(operator) != pending.axis:
            return Refusal("the others, joined along another axis, would need its inverse")
        scales, shifts = [], []
        for part, size in parts:
            here = part is operator.edge
            scales.append(affine.scale if here else np.ones(size))
            shifts.append(affine.shift if here else np.zeros(size))
        return Move(after=Pending(Affine(np.concatenate(scales), np.concatenate(shifts)), pending.axis))

    def cases(self) -> list[Case]:
        class Joined(nn.Module):
            def __init__(self, channels: int, *, both: bool) -> None:
                super().__init__()
                self.a = nn.BatchNorm2d(channels)
                self.b = nn.BatchNorm2d(channels) if both else nn.Identity()
                self.conv = nn.Conv2d(2 * channels, 4, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = torch.cat([self.b(torch.tanh(x)), self.a(torch.sigmoid(x))], 1)
                z: torch.Tensor = self.conv(y)
                return z

        return [
            Case("one of two", lambda: Joined(3, both=False), (2, 3, 4, 5), ("folded",)),
            Case("both", lambda: Joined(3, both=True), (3, 3, 3, 3), ("folded", "folded")),
        ]
