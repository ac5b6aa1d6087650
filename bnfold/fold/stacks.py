"""Stacks as concatenations, so that the rules for these serve both.

    stack([x, y], d)                   =  cat([x.unsqueeze(d), y.unsqueeze(d)], d)
    stack([x, y], d).flatten(d, d + 1) =  cat([x, y], d)
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from bnfold import graph as g

aten = torch.ops.aten

_JOINED_AXIS = {
    aten.hstack.default: 1,
    aten.column_stack.default: 1,
    aten.vstack.default: 0,
    aten.dstack.default: 2,
}
_RESHAPES = frozenset(
    {aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints}
)


def use_concatenation(graph: fx.Graph) -> None:
    """Write hstack and its like, and a stack whose new axis is flattened away again, as concatenations."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _JOINED_AXIS:
            axis = _JOINED_AXIS[cast(Any, node.target)]
            if all(g.value(part).ndim > max(axis, 1) for part in _parts(node)):
                node.args, node.kwargs = (_parts(node), axis), {}
                node.target = aten.cat.default
        elif node.target is aten.stack.default:
            axis, readers = _new_axis(node), list(node.users)
            if len(readers) == 1 and readers[0].target in _RESHAPES and _flattens(node, readers[0], axis):
                reader = readers[0]
                with graph.inserting_before(reader):
                    cat = graph.call_function(aten.cat.default, (_parts(node), axis))
                cat.meta = dict(reader.meta)
                reader.replace_all_uses_with(cat)
                graph.erase_node(reader)
                graph.erase_node(node)


class Stacks:
    """Writes every stack as a concatenation for as long as the folding takes."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._cats: list[tuple[fx.Node, list[fx.Node], int]] = []
        for node in list(graph.nodes):
            if node.op == "call_function" and node.target is aten.stack.default:
                self._write_as_cat(node)

    def _write_as_cat(self, node: fx.Node) -> None:
        axis, parts = _new_axis(node), []
        with self._graph.inserting_before(node):
            for source in _parts(node):
                part = self._graph.call_function(aten.unsqueeze.default, (source, axis))
                value = g.value(source).unsqueeze(axis)
                part.meta = {**node.meta, "val": value, "reference": None, "sites": frozenset()}
                parts.append(part)
            cat = self._graph.call_function(aten.cat.default, (parts, axis))
        cat.meta = dict(node.meta)
        node.replace_all_uses_with(cat)
        self._graph.erase_node(node)
        self._cats.append((cat, parts, axis))

    def restore(self) -> None:
        """Make a stack again of every concatenation that still reads nothing but what was stacked."""
        for cat, parts, axis in self._cats:
            if not cat.users or _parts(cat) != parts or any(len(part.users) != 1 for part in parts):
                continue
            with self._graph.inserting_before(cat):
                stack = self._graph.call_function(
                    aten.stack.default, ([part.args[0] for part in parts], axis)
                )
            stack.meta = dict(cat.meta)
            stack.meta["sites"] = cat.meta["sites"].union(*(part.meta["sites"] for part in parts))
            cat.replace_all_uses_with(stack)
            self._graph.erase_node(cat)
            for part in parts:
                self._graph.erase_node(part)


def _parts(node: fx.Node) -> list[fx.Node]:
    return list(cast(list[fx.Node], g.arguments(node)["tensors"]))


def _new_axis(node: fx.Node) -> int:
    axis: int = g.arguments(node)["dim"] % g.value(node).ndim
    return axis


def _flattens(stack: fx.Node, reader: fx.Node, axis: int) -> bool:
    """Whether a reshape joins the new axis with the one behind it, and leaves all others."""
    before, after = list(g.value(stack).shape), list(g.value(reader).shape)
    joined = before[axis : axis + 2]
    if len(joined) < 2 or not all(isinstance(size, int) for size in joined):
        return False
    wanted = [*before[:axis], joined[0] * joined[1], *before[axis + 2 :]]
    return [str(size) for size in wanted] == [str(size) for size in after]
