"""Which values of a graph may share memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from bnfold import graph as g

aten = torch.ops.aten

# These give their own input back, or a view of it, in some cases, and their schemas do not say so.
_UNDECLARED = {
    aten.type_as.default,
    aten.einsum.default,
    aten.atleast_1d.default,
    aten.atleast_2d.default,
    aten.atleast_3d.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
    aten.lift.default,
}


_SPLITS = {"chunk", "split", "split_with_sizes", "tensor_split", "unbind", "hsplit", "vsplit", "dsplit"}


class Aliases:
    """Groups of values that may share memory, by schemas and, as long as they are true, by fake tensors.

    Different pieces of one chunk, split or unbind share a storage and yet have no element in common: each
    value remembers which pieces it was cut from.

    Args:
        graph: as exported, or later.
        traced: whether the nodes' fake tensors are those of the trace, so that their storages tell more than
            the schemas do.
    """

    def __init__(self, graph: fx.Graph, *, traced: bool) -> None:
        self._parent: dict[fx.Node, fx.Node] = {}
        self._pieces: dict[fx.Node, dict[fx.Node, int]] = {}
        storages: dict[int, fx.Node] = {}
        for node in graph.nodes:
            sources = list(_sources(node))
            self._pieces[node] = self._cut(node, sources)
            for source in sources:
                self._join(node, source)
            if traced:
                for storage in _storages(node):
                    self._join(node, storages.setdefault(storage, node))

    def overlap(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether a write to one may show in the other."""
        if self._root(a) is not self._root(b):
            return False
        other = self._pieces[b]
        return all(other.get(split, index) == index for split, index in self._pieces[a].items())

    def take_place(self, new: fx.Node, old: fx.Node) -> None:
        """``new`` is what ``old`` became by a write: what is cut from either later overlaps the other."""
        self._pieces[new] = self._pieces[old]
        self._join(new, old)

    def _cut(self, node: fx.Node, sources: list[fx.Node]) -> dict[fx.Node, int]:
        if len(sources) != 1:
            return {}
        inherited = self._pieces[sources[0]]
        if node.target is g.getitem and isinstance(node.args[1], int):
            several = sources[0]
            if g.operator_name(several) in _SPLITS or not list(_sources(several)):
                return {**inherited, several: node.args[1]}
        return inherited

    def _root(self, node: fx.Node) -> fx.Node:
        while (parent := self._parent.get(node, node)) is not node:
            node = parent
        return node

    def _join(self, a: fx.Node, b: fx.Node) -> None:
        self._parent[self._root(a)] = self._root(b)


def written_arguments(node: fx.Node) -> list[fx.Node]:
    """The tensors that an operator writes to."""
    if not is_mutable(node):
        return []
    given = g.arguments(node)
    found: list[fx.Node] = []
    for argument in node.target._schema.arguments:  # type: ignore[union-attr]
        if argument.alias_info is not None and argument.alias_info.is_write:
            fx.node.map_arg(given[argument.name], found.append)
    return found


def is_mutable(node: fx.Node) -> bool:
    """Whether it is an operator that writes to an argument."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    """The arguments that the node's value may share memory with."""
    if node.op != "call_function":
        return
    if node.target is g.getitem or node.target in _UNDECLARED:
        yield from node.all_input_nodes
        return
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        yield from node.all_input_nodes  # not a torch operator: anything may be
        return
    given: dict[str, Any] = g.arguments(node)
    for argument in schema.arguments:
        if argument.alias_info is not None:
            found: list[fx.Node] = []
            fx.node.map_arg(given[argument.name], found.append)
            yield from found


def _storages(node: fx.Node) -> Iterator[int]:
    value = node.meta.get("val")
    for tensor in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(tensor, torch.Tensor):
            yield tensor.untyped_storage()._cdata
