"""An affine after padding moves before it; behind zeros only its scale does.

    s pad(x) + t  =  pad(s x + t)
        where the padding repeats real values (reflect, replicate, circular)
    s pad(x) + t  =  pad(s x) + t        where it adds zeros: the border is t

Refuses: padding of the channel axis; a constant other than 0; a shift alone behind zeros.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule, left_behind

aten = torch.ops.aten


class PadBackward(Rule):
    name = "pad-backward"
    algebra = "s pad(x) + t = pad(sx + t); with zeros s pad(x) + t = pad(sx) + t"
    direction = "backward"
    operators = frozenset({aten.pad.default, aten.constant_pad_nd.default})

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine = pending.affine
        if pending.axis >= len(operator.output_shape) - len(operator.arguments["pad"]) // 2:
            return Refusal("it pads the channel axis")
        if affine.map is not None:
            return Refusal("a shift that differs at the border cannot pass")
        if operator.arguments.get("mode", "constant") != "constant":
            return Move(before={operator.data: pending})
        if operator.arguments.get("value"):
            return Refusal(f"it pads with {operator.arguments['value']}, which the affine would change")
        if not affine.has_scale:
            return Refusal("it pads with zeros, which a shift would change")
        return Move(
            before={operator.data: Pending(affine.only_scale(), pending.axis)},
            after=left_behind(affine.without_scale(), pending.axis),
        )

    def cases(self) -> list[Case]:
        Mode = Literal["constant", "reflect", "replicate", "circular"]

        class Pad(nn.Module):
            def __init__(self, mode: Mode, value: float = 0.0) -> None:
                super().__init__()
                self.mode, self.value = mode, value

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                value = self.value if self.mode == "constant" else None
                return nn.functional.pad(x, (1, 1, 2, 1), self.mode, value)

        def padded(mode: Mode, value: float = 0.0) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 4, 3), Pad(mode, value), nn.BatchNorm2d(4))

        return [
            Case("zeros", lambda: padded("constant"), (2, 3, 6, 7), ("reduced",)),
            Case("zeros, sizes equal", lambda: padded("constant"), (4, 3, 6, 6), ("reduced",)),
            Case("reflect", lambda: padded("reflect"), (2, 3, 6, 7), ("folded",)),
            Case("replicate", lambda: padded("replicate"), (2, 3, 6, 7), ("folded",)),
            Case("circular", lambda: padded("circular"), (2, 3, 6, 7), ("folded",)),
            Case("ones", lambda: padded("constant", 1.0), (2, 3, 6, 7), ("kept",)),
        ]
