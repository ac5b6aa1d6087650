"""An affine after padding moves before it; where it pads with a constant, the constant changes too.

    s pad(x) + t     =  pad(s x + t)
        where the padding repeats real values (reflect, replicate, circular)
    s pad_v(x) + t   =  pad_u(s x + t),  u = s v + t
        where u is the same for all channels: padding has one value for all
    s pad_v(x) + t   =  pad_0(s x) + t + m,  m = s v at the border, 0 inside
        otherwise; nothing but t where v = 0

Refuses: padding of the channel axis; a shift alone behind a constant; a map for a size that is not fixed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from bnfold.affine import Affine
from bnfold.fold.rules import _pad
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule, left_behind


class PadBackward(Rule):
    name = "pad-backward"
    algebra = "s pad(x) + t = pad(sx + t); with a constant v s pad(x) + t = pad0(sx) + t + (sv at the border)"
    direction = "backward"
    operators = _pad.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, value = pending.affine, _pad.constant(operator)
        if _pad.pads_channels(operator, pending):
            return Refusal("it pads the channel axis")
        if value is None:
            if affine.map is not None:
                return Refusal("a shift that differs at the border cannot pass")
            return Move(before={operator.data: pending})
        around = affine.scale * value + affine.shift
        if affine.map is None and (around == around[0]).all():
            return Move(before={operator.data: pending}, settings=_pad.changed(value, float(around[0])))
        if not affine.has_scale:
            return Refusal(f"it pads with {value:g}, which a shift would change")
        after = affine.without_scale()
        if value:
            inside = Pending(Affine.identity(affine.channels), pending.axis)
            border = _pad.frame(operator, inside, affine.scale * value)
            if border is None:
                return Refusal(f"it pads with {value:g}, which the scale would change")
            after = Affine(after.scale, after.shift, border if affine.map is None else affine.map + border)
        return Move(
            before={operator.data: Pending(affine.only_scale(), pending.axis)},
            after=left_behind(after, pending.axis),
            settings=_pad.changed(value, 0.0),
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
            Case("ones", lambda: padded("constant", 1.0), (2, 3, 6, 7), ("reduced",)),
            Case(
                "ones around a single channel",
                lambda: nn.Sequential(nn.Conv2d(3, 1, 3), Pad("constant", 1.0), nn.BatchNorm2d(1)),
                (2, 3, 6, 7),
                ("folded",),
            ),
        ]
