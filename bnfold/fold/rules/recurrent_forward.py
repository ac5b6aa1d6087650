"""An affine before an LSTM, a GRU or a simple RNN goes into its input weights and biases.

    W_ih (s * x + t) + b_ih  =  (W_ih diag(s)) x + (b_ih + W_ih t)

Both directions of the first layer read the input: W_ih has shape (gates * hidden, features), and the
features are the input's last axis.

Refuses: channels on another axis; a shift where the layer has no biases.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from bnfold.affine import Array
from bnfold.fold.rules._base import DATA_DEPENDENT, Answer, Case, Move, Operator, Pending, Refusal, Rule

aten = torch.ops.aten


class RecurrentForward(Rule):
    name = "recurrent-forward"
    algebra = "W_ih(sx + t) + b_ih = (W_ih diag s)x + (b_ih + W_ih t), for LSTM, GRU and RNN"
    direction = "forward"
    operators = frozenset({aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input})

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, arguments = pending.affine, operator.arguments
        if affine.map is not None or pending.axis != len(operator.input_shape) - 1:
            return Refusal("the channels of the BatchNorm are not the features that it reads")
        has_biases = bool(arguments["has_biases"])
        if affine.has_shift and not has_biases:
            return Refusal("it has no bias that could take the shift")
        directions = 2 if arguments["bidirectional"] else 1
        params: list[Any] = arguments["params"]
        per_direction = len(params) // (arguments["num_layers"] * directions)
        weights: dict[str, Array] = {}
        for direction in range(directions):
            first = direction * per_direction
            values = [operator.value(params[first])]
            if has_biases:
                values.append(operator.value(params[first + 2]))
            if any(value is None for value in values) or not isinstance(params[first], fx.Node):
                return DATA_DEPENDENT
            weight = values[0]
            assert weight is not None
            weights[f"params.{first}"] = weight * affine.scale[None, :]
            if affine.has_shift:
                bias = values[1]
                assert bias is not None
                weights[f"params.{first + 2}"] = bias + weight @ affine.shift
        return Move(weights)

    def cases(self) -> list[Case]:
        class Sequence(nn.Module):
            def __init__(self, layer: nn.Module, features: int) -> None:
                super().__init__()
                self.norm, self.layer = nn.BatchNorm1d(features), layer

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.norm(torch.sigmoid(x)).transpose(1, 2)
                z: torch.Tensor = self.layer(y)[0]
                return z

        def lstm(**options: Any) -> nn.Module:
            return Sequence(nn.LSTM(3, 4, batch_first=True, **options), 3)

        return [
            Case("LSTM", lstm, (2, 3, 5), ("folded",)),
            Case(
                "two layers, both directions",
                lambda: lstm(num_layers=2, bidirectional=True),
                (2, 3, 5),
                ("folded",),
            ),
            Case("no bias", lambda: lstm(bias=False), (2, 3, 5), ("reduced",)),
            Case(
                "GRU, sizes equal",
                lambda: Sequence(nn.GRU(4, 4, batch_first=True), 4),
                (4, 4, 4),
                ("folded",),
            ),
        ]
