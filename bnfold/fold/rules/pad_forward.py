"""An affine before padding moves behind it, so that a convolution there can take it.

    pad(s x + t)     =  s pad(x) + t
        where the padding repeats real values (reflect, replicate, circular)
    pad_v(s x + t)   =  s pad_u(x) + t,  u = (v - t) / s
        where u is the same for all channels: 0 for t = v = 0
    pad_v(s x + t)   =  s pad_0(x) + m,  m = t inside, v at the border
        otherwise

Refuses: padding of the channel axis; a map for a size that is not fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from torch import nn

from bnfold.affine import Affine
from bnfold.fold.rules import _frames, _pad
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class PadForward(Rule):
    name = "pad-forward"
    algebra = "pad(sx + t) = s pad(x) + t; with a constant v pad(sx + t) = s pad0(x) + (t inside, v around)"
    direction = "forward"
    operators = _pad.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, value = pending.affine, _pad.constant(operator)
        if _pad.pads_channels(operator, pending):
            return Refusal("it pads the channel axis")
        if value is None:
            return Move(after=pending) if affine.map is None else Refusal("it repeats a map at the border")
        instead = _instead(affine, value)
        if instead is not None:
            return Move(after=pending, settings=_pad.changed(value, instead))
        border = _pad.frame(operator, pending, np.full(affine.channels, value))
        if border is None:
            return Refusal(f"it pads with {value:g}, which the affine would change")
        after = _frames.behind(affine.scale, border)
        return Move(after=Pending(after, 1), settings=_pad.changed(value, 0.0))

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
            Case("ones", zeros(1.0), (2, 3, 5, 6), ("reduced",)),
            Case("ones, sizes equal", zeros(1.0), (3, 3, 3, 3), ("reduced",)),
        ]


def _instead(affine: Affine, value: float) -> float | None:
    """The u that every channel maps to ``value``: s u + t = v; None where there is none."""
    if affine.map is not None:
        return None
    dead = affine.scale == 0
    if dead.all() or (affine.shift[dead] != value).any():
        return None
    wanted = (value - affine.shift[~dead]) / affine.scale[~dead]
    return float(wanted[0]) if (wanted == wanted[0]).all() else None
