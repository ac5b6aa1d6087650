"""An affine after a clamp moves before it, and takes the clamp's bounds along.

    s * clamp(x, l, h) + t  =  clamp(s * x + t, s * l + t, s * h + t)
        bounds swapped where s < 0

A relu is a clamp from 0 up, relu6 and hardtanh are clamps. With a bound per channel, one maximum, minimum
or clamp takes the place of the activation, and the affine goes on to the layer before it: this is how a
BatchNorm after a relu folds backward. Any sign of s; a dead channel becomes the clamp from t to t.

Refuses: bounds that depend on the input, or vary over another axis than the channels.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from bnfold.fold.rules import _monotone
from bnfold.fold.rules._base import Answer, Case, Operator, Pending, Refusal, Rule
from bnfold.fold.rules._threshold import clamp_move, own_bounds


class ThresholdBackward(Rule):
    name = "threshold-backward"
    algebra = "s clamp(x, l, h) + t = clamp(sx + t, sl + t, sh + t)"
    direction = "backward"
    rounds_more = True
    operators = _monotone.CLAMPS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, rank = pending.affine, len(operator.output_shape)
        found = own_bounds(operator, pending)
        if isinstance(found, Refusal):
            return found
        with np.errstate(invalid="ignore"):
            ends = [np.where(affine.scale == 0, 0.0, affine.scale * bound) + affine.shift for bound in found]
        low, high = np.minimum(*ends), np.maximum(*ends)
        return clamp_move(
            low, high, rank, pending.axis, before={operator.data: Pending(affine, pending.axis)}
        )

    def cases(self) -> list[Case]:
        def activated(activation: nn.Module, padding: int = 0) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 4, 3, padding=padding), activation, nn.BatchNorm2d(4))

        return [
            Case("relu", lambda: activated(nn.ReLU()), (2, 3, 6, 7), ("folded",)),
            Case("relu6", lambda: activated(nn.ReLU6()), (4, 3, 6, 6), ("folded",)),
            Case("hardtanh", lambda: activated(nn.Hardtanh(-0.5, 2.0), padding=1), (2, 3, 6, 7), ("folded",)),
            Case(
                "on the features",
                lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4)),
                (4, 3),
                ("folded",),
            ),
            Case(
                "over the length, sizes equal",
                lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)),
                (4, 4, 4),
                ("kept",),
            ),
        ]
