"""An affine before a linear layer goes into its weight and bias.

    W (s * x + t) + b  =  (W diag(s)) x + (b + W t)

W has shape (out, in): column c reads feature c. This is how a BatchNorm after an activation vanishes. Over
any other axis a scale passes a layer that has no bias.

    W (s * x)  =  s * (W x)

Refuses: channels that are not the features, as for a linear layer over (batch, channels, features), where
there is a shift or a bias.
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


class LinearForward(Rule):
    name = "linear-forward"
    algebra = "W(sx + t) + b = (W diag s)x + (b + Wt)"
    direction = "forward"
    operators = frozenset({aten.linear.default})

    def match(self, operator: Operator, pending: Pending) -> Answer:
        weight = operator.constant("weight")
        if weight is None or weight.ndim != 2:
            return DATA_DEPENDENT
        bias = bias_or_zeros(operator, weight.shape[0])
        if bias is None:
            return DATA_DEPENDENT
        last = len(operator.input_shape) - 1
        affine = pending.on(last, operator.input_shape[last])
        alone = not pending.affine.has_shift and pending.affine.map is None
        if affine is None and alone and operator.arguments["bias"] is None:
            return Move(after=pending)
        if affine is None or affine.map is not None:
            return Refusal(
                f"the BatchNorm normalises axis {pending.axis}, the linear layer reads axis {last}"
            )
        weights = {"weight": weight * affine.scale[None, :]}
        if affine.has_shift:
            weights["bias"] = bias + weight @ affine.shift
        return Move(weights=weights)

    def cases(self) -> list[Case]:
        class Heads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.a, self.b = nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Linear(4, 4, bias=False)

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                y = self.norm(torch.sigmoid(x))
                return self.a(y), self.b(y)

        class AlsoReturned(Heads):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                y = self.norm(torch.sigmoid(x))
                return self.a(y), y

        class Edges(nn.Module):
            """A BatchNorm, a sum over the edges of a graph (the last axis), a convolution."""

            def __init__(self, channels: int, vertices: int) -> None:
                super().__init__()
                self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, 5, 1)
                self.edges = nn.Parameter(torch.randn(vertices, vertices))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.conv(self.norm(torch.sigmoid(x)) @ self.edges)
                return y

        def after_sigmoid(*rest: nn.Module) -> nn.Module:
            return nn.Sequential(nn.Sigmoid(), *rest)

        return [
            Case("plain", lambda: after_sigmoid(nn.BatchNorm1d(3), nn.Linear(3, 5)), (2, 3), ("folded",)),
            Case(
                "square, no bias",
                lambda: after_sigmoid(nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False)),
                (4, 4),
                ("folded",),
            ),
            Case("two readers", Heads, (2, 4), ("folded",)),
            Case("also returned", AlsoReturned, (2, 4), ("kept",)),
            Case("over the edges of a graph", lambda: Edges(4, 6), (2, 4, 5, 6), ("reduced",)),
            Case("over the edges, sizes equal", lambda: Edges(4, 4), (4, 4, 4, 4), ("reduced",)),
            Case(
                "over the length",
                lambda: after_sigmoid(nn.BatchNorm1d(4), nn.Linear(4, 4)),
                (4, 4, 4),
                ("kept",),
            ),
        ]
