"""An affine before a concatenation moves behind it; the other parts get s = 1, t = 0.

    [s * x + t, y]  =  [s, 1] * [x, y] + [t, 0]        joined along the channels

It is worth it where a layer behind takes the whole. Where other parts have affines of their own, all of them
move at once: one by one, none would be worth it as long as the others stay.

Refuses: parts that are joined along another axis than the channels; one tensor that stands there twice.
"""

from __future__ import annotations

from collections.abc import Iterable

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
        alone = {part: affine if part is operator.edge else Affine.identity(size) for part, size in parts}
        together, before = dict(alone), {}
        for part, _ in parts:
            other = operator.pending.get(part) if part is not operator.edge else None
            inverse = other.affine.inverse() if other is not None and other.axis == pending.axis else None
            if other is not None and inverse is not None and len(part.users) == 1:
                together[part], before[part] = other.affine, Pending(inverse, pending.axis)
        answer = Move(after=Pending(joined(alone.values()), pending.axis))
        if not before:
            return answer
        return answer, Move(after=Pending(joined(together.values()), pending.axis), before=before)

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

        class Pooled(Joined):
            """Two readers behind: only all parts at once are worth it."""

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = torch.cat([self.b(torch.tanh(x)), self.a(torch.sigmoid(x))], 1)
                z: torch.Tensor = self.conv(y) + torch.sigmoid(y).mean(1, keepdim=True)
                return z

        return [
            Case("one of two", lambda: Joined(3, both=False), (2, 3, 4, 5), ("folded",)),
            Case("both", lambda: Joined(3, both=True), (3, 3, 3, 3), ("folded", "folded")),
            Case(
                "both, and another reader",
                lambda: Pooled(3, both=True),
                (2, 3, 4, 5),
                ("reduced", "reduced"),
            ),
        ]


def joined(affines: Iterable[Affine]) -> Affine:
    """Per channel of all parts, in their order."""
    parts = list(affines)
    return Affine(np.concatenate([a.scale for a in parts]), np.concatenate([a.shift for a in parts]))
