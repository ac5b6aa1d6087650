"""One form for one thing: a product with a constant matrix becomes a linear layer; one rule serves both."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import fx

from bnfold import graph as g
from bnfold.fold.constants import Constants

aten = torch.ops.aten


def use_linear(graph: fx.Graph, constants: Constants, pending: Container[fx.Node]) -> None:
    """Write ``x @ W`` and ``addmm(b, x, W)`` next to a pending affine as ``linear(x, W.T, b)``.

    Exact and of the same cost. W has shape (in, out) and must be constant; the transpose is a constant too.
    """
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        operands = _operands(node)
        if operands is None:
            continue
        x, matrix, bias = operands
        beside = x in pending or any(user in pending for user in node.users)
        is_matrix = (
            isinstance(matrix, fx.Node) and g.value(matrix).ndim == 2 and constants.is_constant(matrix)
        )
        if not (beside and is_matrix) or constants.is_constant(x):
            continue
        if bias is not None and g.value(bias).ndim != 1:
            continue
        with graph.inserting_before(node):
            transposed = graph.call_function(aten.t.default, (matrix,))
            transposed.meta = {"val": g.value(matrix).t(), "reference": None, "sites": frozenset()}
            linear = graph.call_function(aten.linear.default, (x, transposed, bias))
        linear.meta = dict(node.meta)
        node.replace_all_uses_with(linear)
        graph.erase_node(node)


def _operands(node: fx.Node) -> tuple[fx.Node, Any, fx.Node | None] | None:
    if node.target in (aten.mm.default, aten.matmul.default):
        x, matrix = node.args
        return (x, matrix, None) if isinstance(x, fx.Node) and g.value(x).ndim >= 2 else None
    if node.target is aten.addmm.default:
        arguments = g.arguments(node)
        if arguments["alpha"] == 1 and arguments["beta"] == 1:
            return arguments["mat1"], arguments["mat2"], arguments["self"]
    return None
