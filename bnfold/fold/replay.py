"""Graphs run in float64, node by node.

A value is kept as long as something still reads it, and no longer; a weight is widened where it is read. So a
proof needs no second copy of all weights, and of the feature maps no more than the network itself.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import fx
from torch.fx.node import map_arg

from bnfold import graph as g
from bnfold.numerics import max_abs, max_rel_error

_BROKEN = object()


class Replay:
    """Runs the float64 twin of a graph.

    Args:
        body: the graph. Its nodes' meta says what the engine did to them (see :mod:`bnfold.fold.body`).
        unusable: BatchNorm calls, by the name of the captured graph, that pass their input on.
    """

    def __init__(self, body: fx.GraphModule, unusable: frozenset[str]) -> None:
        self._body = body
        self._unusable = unusable
        self._pairs = list(zip(body.graph.nodes, g.float64_graph(body).nodes, strict=True))
        self._node = {twin: node for node, twin in self._pairs}
        position = {node: number for number, node in enumerate(body.graph.nodes)}
        self._last_read: dict[fx.Node, list[str]] = {}
        for node in body.graph.nodes:
            last = max(node.users, key=position.__getitem__, default=node)
            self._last_read.setdefault(last, []).append(node.name)

    @property
    def results(self) -> list[str]:
        """The names of the outputs."""
        return [node.name for node in cast(tuple[fx.Node, ...], self._body.graph.output_node().args[0])]

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs."""
        wanted = set(self.results)
        found = {name: value for name, value in self.steps(inputs) if name in wanted}
        return [found[name] for name in self.results]

    @torch.no_grad()
    def steps(self, inputs: Sequence[torch.Tensor]) -> Iterator[tuple[str, Any]]:
        """The name and the value of every operator, input and output, in order."""
        feed, results = iter(inputs), set(self.results)
        values: dict[str, Any] = {}
        for node, twin in self._pairs:
            if node.op == "get_attr":
                if node.name in results:
                    yield node.name, self._look_up(node, values)
            elif node.op != "output":
                is_input = node.op == "placeholder"
                values[node.name] = next(feed) if is_input else self._evaluate(node, twin, values)
                yield node.name, values[node.name]
            self._let_go(node, values)

    def _let_go(self, node: fx.Node, values: dict[str, Any]) -> None:
        """Forget what nothing behind this node reads."""
        for name in self._last_read.get(node, ()):
            values.pop(name, None)

    def sites(
        self, inputs: Sequence[torch.Tensor], reference: Replay
    ) -> tuple[list[tuple[int, float, float]], list[torch.Tensor]]:
        """Compute only what folding touched, each region from the reference's own values at its border.

        Returns:
            number, error relative to max|y|, and max|y|, for each BatchNorm at every border that it reaches;
            and the reference's outputs.
        """
        borders = Counter(
            node.meta["reference"]
            for node, _ in self._pairs
            if node.op == "call_function" and node.meta["reference"] is not None
        )
        expected = _Values(reference, inputs, borders + Counter(reference.results))
        errors = self._errors(inputs, expected)
        return errors, [expected.take(name) for name in reference.results]

    @torch.no_grad()
    def _errors(self, inputs: Sequence[torch.Tensor], reference: _Values) -> list[tuple[int, float, float]]:
        feed = iter(inputs)
        values: dict[str, Any] = {}
        touched: dict[str, frozenset[int]] = {}
        errors: list[tuple[int, float, float]] = []
        for node, twin in self._pairs:
            if node.op == "call_function":
                errors += self._site(node, twin, values, touched, reference)
            elif node.op != "output":
                touched[node.name] = frozenset()
                if node.op == "placeholder":
                    # an affine that an inverse has cancelled may have stood on an input
                    touched[node.name] = node.meta["sites"]
                    values[node.name] = next(feed)
            self._let_go(node, values)
        return errors

    def _site(
        self,
        node: fx.Node,
        twin: fx.Node,
        values: dict[str, Any],
        touched: dict[str, frozenset[int]],
        reference: _Values,
    ) -> list[tuple[int, float, float]]:
        """Compute one node where folding touched it, and compare it where it must equal the reference's."""
        sites = node.meta["sites"].union(*(touched[source.name] for source in node.all_input_nodes))
        equal = node.meta["reference"]
        expected = None if equal is None else reference.take(equal)
        if equal is not None and not sites:
            values[node.name], touched[node.name] = expected, frozenset()
            return []
        value = self._attempt(node, twin, values)
        errors = [(number, math.inf, 0.0) for number in sites] if value is _BROKEN else []
        if equal is None:
            values[node.name], touched[node.name] = value, sites
            return errors
        found = expected if value is _BROKEN else value
        for actual, wanted in zip(_tensors(found), _tensors(expected), strict=True):
            if bool(torch.isfinite(wanted).all()):
                error = max_rel_error(actual.numpy(), wanted.numpy())
                errors.extend((number, error, max_abs(wanted.numpy())) for number in sites)
        values[node.name], touched[node.name] = expected, frozenset()
        return errors

    def _evaluate(self, node: fx.Node, twin: fx.Node, values: dict[str, Any]) -> Any:
        if node.meta.get("reference", node.name) in self._unusable:
            return self._look_up(g.data_input(node), values)

        def look_up(source: fx.Node) -> Any:
            return self._look_up(self._node[source], values)

        if g.draws(twin):
            torch.manual_seed(zlib.crc32(node.name.encode()))  # on both sides the same draw
        return twin.target(*map_arg(twin.args, look_up), **map_arg(twin.kwargs, look_up))  # type: ignore[operator]

    def _look_up(self, source: fx.Node, values: dict[str, Any]) -> Any:
        if source.op == "get_attr":
            return g.double(g.fetch(self._body, str(source.target)))
        return values[source.name]

    def _attempt(self, node: fx.Node, twin: fx.Node, values: dict[str, Any]) -> Any:
        """The value, or _BROKEN where what a rule wrote cannot even be computed."""
        if any(values.get(source.name) is _BROKEN for source in node.all_input_nodes):
            return _BROKEN
        try:
            return self._evaluate(node, twin, values)
        except Exception:  # whatever an operator raises of shapes and types: the fold is wrong, and undone
            return _BROKEN


class _Values:
    """A graph's values by name, computed as far as they are asked for, and kept until the last has asked.

    Args:
        wanted: how often each will be taken.
    """

    def __init__(self, replay: Replay, inputs: Sequence[torch.Tensor], wanted: Counter[str]) -> None:
        self._steps = replay.steps(inputs)
        self._wanted = wanted
        self._kept: dict[str, Any] = {}

    def take(self, name: str) -> Any:
        while name not in self._kept:
            made, value = next(self._steps)
            if self._wanted[made]:
                self._kept[made] = value
        self._wanted[name] -= 1
        return self._kept[name] if self._wanted[name] else self._kept.pop(name)


def _tensors(value: Any) -> list[torch.Tensor]:
    """A value, or the several of an operator such as an LSTM."""
    return list(value) if isinstance(value, tuple | list) else [value]
