"""Reshapes and permutations in a row as one, or none: a BatchNorm that is gone leaves those around it behind.

LeViT's ``linear -> flatten(0, 1) -> BatchNorm -> reshape`` is the example: without the BatchNorm the two
cancel. The values are the same; converters lower every one of them, and some interpreters copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from bnfold import graph as g

aten = torch.ops.aten

_RESHAPES = frozenset(
    {
        aten.flatten.using_ints,
        aten.reshape.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unflatten.int,
        aten.unsqueeze.default,
        aten.view.default,
    }
)
_PERMUTATIONS = frozenset({aten.permute.default, aten.transpose.int})


def shorten(module: fx.GraphModule) -> int:
    """Write rows of reshapes, and of permutations, as one operator or none, in place.

    Args:
        module: a graph without in-place operators whose nodes know their shapes (``meta["val"]``). Shapes
            with a symbolic axis are left alone.

    Returns:
        how many operators were replaced.
    """
    outputs = set(module.graph.output_node().all_input_nodes)
    replaced = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        source = node.args[0]
        if node.target in _RESHAPES and _is_fixed(node, source):
            replaced += _reshape(node, source, may_vanish=node not in outputs)
        elif node.target in _PERMUTATIONS:
            replaced += _permute(node, source, may_vanish=node not in outputs)
    if replaced:
        g.clean(module)
    return replaced


def _is_fixed(*nodes: fx.Node) -> bool:
    return all(isinstance(size, int) for node in nodes for size in g.value(node).shape)


def _reshape(node: fx.Node, source: fx.Node, *, may_vanish: bool) -> bool:
    shape = list(g.value(node).shape)
    if source.target in _RESHAPES and _is_fixed(g.data_input(source)):
        before = g.data_input(source)
    elif shape == list(g.value(source).shape) and may_vanish:
        before = source
    else:
        return False
    if shape == list(g.value(before).shape) and may_vanish:
        node.replace_all_uses_with(before)
    else:
        node.target, node.args, node.kwargs = aten.reshape.default, (before, shape), {}
    return True


def _permute(node: fx.Node, source: fx.Node, *, may_vanish: bool) -> bool:
    order, before = _order(node), source
    if source.target in _PERMUTATIONS:
        first = _order(source)
        order, before = [first[axis] for axis in order], g.data_input(source)
    if order == sorted(order) and may_vanish:
        node.replace_all_uses_with(before)
        return True
    if before is source:
        return False
    node.target, node.args, node.kwargs = aten.permute.default, (before, order), {}
    return True


def _order(node: fx.Node) -> list[int]:
    """The axis of the input that each axis of the output is."""
    arguments, rank = g.arguments(node), g.value(node).ndim
    if node.target is aten.permute.default:
        dims: Sequence[int] = arguments["dims"]
        return [axis % rank for axis in dims]
    order = list(range(rank))
    one, other = arguments["dim0"] % rank, arguments["dim1"] % rank
    order[one], order[other] = order[other], order[one]
    return order
