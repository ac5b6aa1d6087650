"""Questions about one operator of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from bnfold import graph as g

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (lambda graph, x: graph.call_function(aten.rand.default, ([2],)), True),
        (lambda graph, x: graph.call_function(aten.bernoulli.default, (x,)), True),
        (lambda graph, x: graph.call_function(aten.dropout.default, (x, 0.5, True)), True),
        (lambda graph, x: graph.call_function(aten.dropout.default, (x, 0.5, False)), False),
        (lambda graph, x: graph.call_function(aten.dropout.default, (x, 0.5), {"train": False}), False),
        (lambda graph, x: graph.call_function(aten.rrelu.default, (x,)), False),  # training is off by default
        (
            lambda graph, x: graph.call_function(
                aten.scaled_dot_product_attention.default, (x, x, x), {"dropout_p": 0.1}
            ),
            True,
        ),
        (lambda graph, x: graph.call_function(aten.scaled_dot_product_attention.default, (x, x, x)), False),
        (lambda graph, x: graph.call_function(aten.relu.default, (x,)), False),
        (lambda graph, x: graph.call_function(g.getitem, (x, 0)), False),
        (lambda graph, x: x, False),
    ],
)
def test_whether_an_operator_draws(call: Callable[[fx.Graph, fx.Node], Any], answer: bool) -> None:
    graph = fx.Graph()
    assert g.draws(call(graph, graph.placeholder("x"))) is answer
