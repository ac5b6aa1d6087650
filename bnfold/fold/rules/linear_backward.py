"""An affine after a linear layer goes into its weight and bias.

    s * (W x + b) + t  =  (s W) x + (s b + t)

W has shape (out, in); the features are the last axis. An affine over any other axis meets none of W: without
a bias its scale passes, and its shift stays. So a product with the edges of a graph, which lies between a
convolution and its BatchNorm, is no obstacle to the scale.

    s * (W x) + t  =  W (s * x) + t

Refuses: channels on any other axis where there is a bias. BatchNorm's channels are axis 1, so the two meet
only for an input of shape (batch, features). For (batch, length, features) the affine runs over the length,
even where length and features happen to be equal, and must not go into W's rows.
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
    left_behind,
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
        passes = affine is None and pending.affine.map is None and operator.arguments["bias"] is None
        if passes and pending.affine.has_scale:
            scale, shift = pending.affine.only_scale(), pending.affine.without_scale()
            after = left_behind(shift, pending.axis)
            return Move(after=after, before={operator.data: Pending(scale, pending.axis)})
        if affine is None or affine.map is not None or weight.ndim != 2:
            return Refusal(
                f"the BatchNorm normalises axis {pending.axis}, the linear layer's features are axis {last}"
            )
        return Move(
            weights={"weight": weight * affine.scale[:, None], "bias": affine.scale * bias + affine.shift}
        )

    def cases(self) -> list[Case]:
        class Edges(nn.Module):
            """A convolution, and a sum over the edges of a graph whose vertices are the last axis."""

            def __init__(self, channels: int, vertices: int) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels)
                self.edges = nn.Parameter(torch.randn(vertices, vertices))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.norm(torch.einsum("nctv,vw->nctw", self.conv(x), self.edges))
                return torch.tanh(y)

        def pair(linear: nn.Module, norm: nn.Module) -> nn.Module:
            return nn.Sequential(linear, norm)

        return [
            Case("plain", lambda: pair(nn.Linear(3, 5), nn.BatchNorm1d(5)), (2, 3), ("folded",)),
            Case(
                "no bias", lambda: pair(nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5)), (2, 3), ("folded",)
            ),
            Case("square", lambda: pair(nn.Linear(4, 4), nn.BatchNorm1d(4)), (4, 4), ("folded",)),
            Case("over the length", lambda: pair(nn.Linear(3, 5), nn.BatchNorm1d(6)), (2, 6, 3), ("kept",)),
            Case("over the edges of a graph", lambda: Edges(4, 6), (2, 3, 5, 6), ("reduced",)),
            Case("over the edges, sizes equal", lambda: Edges(4, 4), (4, 3, 4, 4), ("reduced",)),
            Case(
                "over the length, sizes equal",
                lambda: pair(nn.Linear(4, 4), nn.BatchNorm1d(4)),
                (4, 4, 4),
                ("kept",),
            ),
        ]
