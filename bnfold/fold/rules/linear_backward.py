"""An affine after a linear layer goes into its weight and bias.

    s * (W x + b) + t  =  (s W) x + (s b + t)

W has shape (out, in); the features are the last axis.

Refuses: channels on any other axis. BatchNorm's channels are axis 1, so the two meet only for an input of
shape (batch, features). For (batch, length, features) the affine runs over the length, even where length
and features happen to be equal, and must not go into W's rows.
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.fold.rules._base import (
    DATA_DEPENDENT,
    Answer,
    Case,
    Move,
    Operator,
    Pending,
    Refusal,
    Rule,
    bias_or_zeros,
)

aten = torch.ops.aten


class LinearBackward(Rule):
    name = "linear-backward"
    algebra = "s(Wx + b) + t = (sW)x + (sb + t)"
    direction = "backward"
    operators = frozenset({aten.linear.default})

    def match(self, operator: Operator, pending: Pending) -> Answer:
        weight = operator.constant("weight")
        if weight is None:
            return DATA_DEPENDENT
        bias = bias_or_zeros(operator, weight.shape[0])
        if bias is None:
            return DATA_DEPENDENT
        last = len(operator.output_shape) - 1
        affine = pending.on(last, weight.shape[0])
        if affine is None or affine.map is not None or weight.ndim != 2:
            return Refusal(
                f"the BatchNorm normalises axis {pending.axis}, the linear layer's features are axis {last}"
            )
        return Move(
            weights={"weight": weight * affine.scale[:, None], "bias": affine.scale * bias + affine.shift}
        )

    def cases(self) -> list[Case]:
        def pair(linear: nn.Module, norm: nn.Module) -> nn.Module:
            return nn.Sequential(linear, norm)

        return [
            Case("plain", lambda: pair(nn.Linear(3, 5), nn.BatchNorm1d(5)), (2, 3), ("folded",)),
            Case(
                "no bias", lambda: pair(nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5)), (2, 3), ("folded",)
            ),
            Case("square", lambda: pair(nn.Linear(4, 4), nn.BatchNorm1d(4)), (4, 4), ("folded",)),
            Case("over the length", lambda: pair(nn.Linear(3, 5), nn.BatchNorm1d(6)), (2, 6, 3), ("kept",)),
            Case(
                "over the length, sizes equal",
                lambda: pair(nn.Linear(4, 4), nn.BatchNorm1d(4)),
                (4, 4, 4),
                ("kept",),
            ),
        ]
