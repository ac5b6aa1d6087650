"""An affine before padding moves behind it, so that a convolution there can take it.

    pad(s x + t)  =  s pad(x) + t    where the padding repeats real values
    pad(s x)      =  s pad(x)        where it adds zeros

Reflecting, replicating and circular padding repeat real values.

Refuses: a shift before zeros (the border would become t), and any other constant value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule

aten = torch.ops.aten


class PadForward(Rule):
    name = "pad-forward"
    algebra = "pad(sx + t) = s pad(x) + t; with zeros only pad(sx) = s pad(x)"
    direction = "forward"
    operators = frozenset({aten.pad.default, aten.constant_pad_nd.default})

    def match(self, operator: Operator, pending: Pending) -> Answer:
        padded_axes = len(operator.arguments["pad"]) // 2
        if pending.axis >= len(operator.input_shape) - padded_axes:
            return Refusal("it pads the channel axis")
        if operator.arguments.get("mode", "constant") != "constant":
            return (
                Move(after=pending)
                if pending.affine.map is None
                else Refusal("it repeats a map at the border")
            )
        if operator.arguments.get("value"):
            return Refusal(f"it pads with {operator.arguments['value']}, which the affine would change")
        if pending.affine.has_shift or pending.affine.map is not None:
            return Refusal("it pads with zeros, which a shift would change")
        return Move(after=pending)

    def cases(self) -> list[Case]:
        Mode = Literal["reflect", "replicate", "circular"]

        def conv(mode: Mode) -> Callable[[], nn.Module]:
            return lambda: nn.Sequential(
                nn.Sigmoid(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)
            )

        def zeros(value: float) -> Callable[[], nn.Module]:
            return lambda: nn.Sequential(
                nn.Sigmoid(), nn.BatchNorm2d(3), nn.ConstantPad2d(1, value), nn.Conv2d(3, 4, 3)
            )

        return [
            Case("reflect", conv("reflect"), (2, 3, 5, 6), ("folded",)),
            Case("replicate", conv("replicate"), (2, 3, 5, 6), ("folded",)),
            Case("circular", conv("circular"), (3, 3, 3, 3), ("folded",)),
            Case("zeros", zeros(0.0), (2, 3, 5, 6), ("reduced",)),
            Case("ones", zeros(1.0), (2, 3, 5, 6), ("kept",)),
        ]
