"""Values in a graph that do not depend on the network's input, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from bnfold import graph as g
from bnfold.affine import Array

aten = torch.ops.aten

_FACTORIES = frozenset({aten.full.default, aten.zeros.default, aten.ones.default, aten.scalar_tensor.default})


_UNSET = frozenset({aten.empty.memory_format, aten.empty_strided.default})


def store_made(body: fx.GraphModule) -> None:
    """Make buffers of the tensors that the graph makes out of nothing, such as ``torch.eye(3)``.

    A buffer goes along with ``.to()``, where a factory names a dtype and a device; and ``torch.load`` traces
    a graph anew, which would make constants of them that no other state dict has.
    """
    for node in list(body.graph.nodes):
        made = node.op == "call_function" and not node.all_input_nodes and node.target not in _UNSET
        if not made or g.draws(node) or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        name = f"{node.name}_made"
        while hasattr(body, name):
            name += "_"
        g.fill(body, name, node.target(*node.args, **node.kwargs))
        with body.graph.inserting_before(node):
            stored = body.graph.get_attr(name)
        stored.meta = dict(node.meta)
        node.replace_all_uses_with(stored)
        body.graph.erase_node(node)


# Rules ask for a weight several times in a row. All weights in float64 would be twice the model.
_MOST_KEPT = 2


class Constants:
    """Evaluates constant subgraphs, such as a weight-normed weight, in float64."""

    def __init__(self, body: fx.GraphModule) -> None:
        self._body = body
        self._is_constant: dict[fx.Node, bool] = {}
        self._values: dict[fx.Node, Any] = {}

    def is_constant(self, node: fx.Node) -> bool:
        """Whether the node's value does not depend on an input, a random number or a refused operator."""
        waiting = [node]
        while waiting:  # not by recursion: the data path of a deep network is longer than Python's stack
            here = waiting[-1]
            unknown = [source for source in here.all_input_nodes if source not in self._is_constant]
            if here in self._is_constant:
                waiting.pop()
            elif unknown:
                waiting.extend(unknown)
            else:
                self._is_constant[waiting.pop()] = self._decide(here)
        return self._is_constant[node]

    def _decide(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            return True
        if node.op != "call_function" or g.draws(node):
            return False
        sources = node.all_input_nodes
        return all(self._is_constant[s] for s in sources) if sources else node.target in _FACTORIES

    def value(self, node: fx.Node) -> Array | None:
        """The node's value as float64, or None if it depends on the input."""
        if not isinstance(node, fx.Node) or not self.is_constant(node):
            return None
        result = self._evaluate(node, {})
        if node.op != "get_attr":
            self._values[node] = result
            if len(self._values) > _MOST_KEPT:
                del self._values[next(iter(self._values))]
        array: Array = result.numpy()
        return array

    def _evaluate(self, node: fx.Node, steps: dict[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            return g.double(g.fetch(self._body, str(node.target)))
        if node in self._values:
            return self._values[node]
        if node not in steps:
            args, kwargs = map_arg((node.args, node.kwargs), lambda source: self._evaluate(source, steps))
            args, kwargs = g.widened_arguments(node, args, kwargs)
            with torch.no_grad():
                steps[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return steps[node]
