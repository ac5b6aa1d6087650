"""An affine before a clamp moves behind it, and the clamp's bounds move the other way.

    clamp(s * x + t, l, h)  =  s * clamp(x, (l - t) / s, (h - t) / s) + t
        bounds swapped where s < 0

A relu is a clamp from 0 up: relu(s x + t) = s * max(x, -t / s) + t for s > 0, and with min for s < 0. So
a BatchNorm before a relu (pre-activation) costs nothing where the layer behind takes s and t: one
maximum, minimum or clamp with a bound per channel is in the place of the relu. A dead channel (s = 0) is
held at its constant clamp(t, l, h) by both bounds, and leaves nothing for the layers behind.

Refuses: bounds that depend on the input; scales so small that a bound would lose precision.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from bnfold.affine import Affine
from bnfold.fold.rules import _monotone
from bnfold.fold.rules._base import Answer, Case, Operator, Pending, Refusal, Rule
from bnfold.fold.rules._threshold import clamp_move, own_bounds

_SMALLEST = 1e-6  # of |s| against the largest: below, t / s would swamp x


class ThresholdForward(Rule):
    name = "threshold-forward"
    algebra = "clamp(sx + t, l, h) = s clamp(x, (l - t)/s, (h - t)/s) + t; relu(sx + t) = s max(x, -t/s) + t"
    direction = "forward"
    rounds_more = True
    operators = _monotone.CLAMPS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, rank = pending.affine, len(operator.input_shape)
        found = own_bounds(operator, pending)
        if isinstance(found, Refusal):
            return found
        size, dead = np.abs(affine.scale), affine.scale == 0
        if dead.all() or size[~dead].min() < _SMALLEST * size.max():
            return Refusal("a scale near 0 cannot be divided by")
        divisor = np.where(dead, 1.0, affine.scale)
        constant = np.clip(affine.shift, found[0], found[1])
        ends = [np.where(dead, constant, (bound - affine.shift) / divisor) for bound in found]
        low, high = np.minimum(*ends), np.maximum(*ends)
        after = Affine(divisor, np.where(dead, 0.0, affine.shift))
        return clamp_move(low, high, rank, pending.axis, after=Pending(after, pending.axis))

    def cases(self) -> list[Case]:
        def before(activation: nn.Module, padding: int = 0) -> nn.Module:
            conv = nn.Conv2d(3, 4, 3, padding=padding)
            return nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(3), activation, conv)

        return [
            Case("relu", lambda: before(nn.ReLU()), (2, 3, 6, 7), ("folded",)),
            Case("relu6", lambda: before(nn.ReLU6()), (3, 3, 6, 6), ("folded",)),
            Case("hardtanh", lambda: before(nn.Hardtanh(-0.5, 2.0)), (2, 3, 6, 7), ("folded",)),
            Case("relu, then zero padding", lambda: before(nn.ReLU(), padding=1), (2, 3, 6, 7), ("reduced",)),
        ]
