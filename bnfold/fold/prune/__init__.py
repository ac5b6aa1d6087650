"""Pruning: channels that are constant, or that nobody reads, leave the network on both sides.

Folding turns a dead channel (s = 0) into a row of zeros and a constant. Here that row goes from its
producer, the constant is carried through what lies between and joins the biases of the layers that read it,
and their columns go as well. Exact, like every fold: it works on the folded graph while its weights are in
float64, before the certificate.

1. Along the graph: which channels of each value are constant (`Kind.channels`).
2. Against it, to a fixpoint: which must stay (`Kind.require`), beginning with none. The network's inputs and
   outputs are never cut, nor what an operator reads that no kind is known for.
3. The operators are rewritten for the channels that stay (`Kind.cut`).

Source: removal of coupled channels as in Fang et al., "DepGraph: Towards Any Structural Pruning" (CVPR 2023);
here only channels go that do not change the answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from torch import fx

from bnfold import graph as g
from bnfold.fold.body import Body
from bnfold.fold.constants import Constants
from bnfold.fold.prune._base import Channels, Keep, Kind
from bnfold.fold.prune.joins import Joins
from bnfold.fold.prune.layers import Layers, weight_of
from bnfold.fold.prune.pointwise import Pointwise
from bnfold.fold.prune.rearrangements import Rearrangements
from bnfold.fold.prune.spatial import Spatial
from bnfold.fold.report import PrunedLayer, Pruning
from bnfold.fold.rules import Operator

_SIZES = frozenset({torch.ops.aten.sym_size.int})


def prune(body: Body, sites: Iterable[int]) -> Pruning:
    """Cut every channel that can go without changing the network's answer.

    Args:
        body: the folded graph, with weights in float64.
        sites: the BatchNorms that the certificate holds responsible.
    """
    return _Pruner(body, frozenset(sites)).run()


class _Pruner:
    def __init__(self, body: Body, sites: frozenset[int]) -> None:
        self._body, self._sites = body, sites
        g.drop_dead_code(body.graph)
        self._constants = Constants(body.module)
        self._operators = {
            node: Operator(node, g.arguments(node), self._constants.value)
            for node in body.graph.nodes
            if node.op == "call_function"
        }
        layers = [op for op in self._operators.values() if op.node.target in Layers.operators]
        calls = Counter(weight_of(op) for op in layers if isinstance(op.arguments["weight"], fx.Node))
        shared = frozenset(name for name, count in calls.items() if count > 1)
        kinds: tuple[Kind, ...] = (Layers(shared), Pointwise(), Spatial(), Rearrangements(), Joins())
        self._kinds = {target: kind for kind in kinds for target in kind.operators}
        self._shared: dict[str, list[Operator]] = defaultdict(list)
        for operator in layers:
            if weight_of(operator) in shared:
                self._shared[weight_of(operator)].append(operator)
        self._known: dict[fx.Node, Channels] = {}
        self._keep: Keep = {}
        self._reader: dict[fx.Node, fx.Node] = {}

    def run(self) -> Pruning:
        """Analyse, decide, cut, and tell."""
        before = weight_bytes(self._body)
        for node, operator in self._operators.items():
            kind = self._kinds.get(node.target)
            found = None if kind is None or self._is_constant(node) else kind.channels(operator, self._known)
            if found is not None:
                self._known[node] = found
                self._keep[node] = np.zeros(len(found.constant), dtype=bool)
        self._settle()
        layers = [entry for node in self._known if (entry := self._entry(node)) is not None]
        self._cut()
        g.drop_dead_code(self._body.graph)
        return Pruning(layers, before - weight_bytes(self._body))

    def _is_constant(self, node: fx.Node) -> bool:
        return self._constants.is_constant(node)

    # --- what must stay --------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Mark what must stay, against the graph, until nothing more has to."""
        marked = -1
        while marked != self._marked():
            marked = self._marked()
            for node in reversed(self._body.graph.nodes):
                before = {x: self._keep[x].copy() for x in node.all_input_nodes if x in self._keep}
                if node in self._known:
                    self._kinds[node.target].require(self._operators[node], self._known, self._keep)
                elif node.target in _SIZES:
                    self._reads_size(node)
                else:
                    for source in before:
                        self._keep[source][:] = True
                for source, mask in before.items():
                    if (self._keep[source] & ~mask & self._known[source].known).any():
                        self._reader.setdefault(source, node)
            self._agree_on_shared_weights()
            if marked == self._marked():
                self._keep_one()

    def _marked(self) -> int:
        return sum(int(mask.sum()) for mask in self._keep.values())

    def _reads_size(self, node: fx.Node) -> None:
        source, dim = g.data_input(node), g.arguments(node)["dim"]
        if source in self._known and dim % g.value(source).ndim == self._known[source].axis:
            self._keep[source][:] = True

    def _agree_on_shared_weights(self) -> None:
        """A weight that several calls read is cut where all of them agree, or it would be there twice."""
        for operators in self._shared.values():
            calls = [op.node for op in operators]
            inputs = [op.data for op in operators]
            for values in (calls, inputs):
                masks = [self._keep[value] for value in values if value in self._keep]
                all_of_them = len(masks) < len(values) or len({len(mask) for mask in masks}) > 1
                together = True if all_of_them else np.logical_or.reduce(masks)
                for mask in masks:
                    mask |= together

    def _keep_one(self) -> None:
        """No value is left without a channel."""
        for node, mask in self._keep.items():
            if not mask.any():
                size = np.where(self._known[node].known, np.abs(self._known[node].constant), 0.0)
                mask[size.argmax()] = True
                return

    # --- cutting ---------------------------------------------------------------------------------------

    def _cut(self) -> None:
        values: dict[fx.Node, torch.Tensor] = {}
        for node, operator in self._operators.items():
            if node not in self._known:
                continue
            touched = [x for x in (node, *node.all_input_nodes) if x in self._keep]
            if all(self._keep[x].all() for x in touched):
                continue
            self._kinds[node.target].cut(operator, self._known, self._keep, self._body)
            node.meta["sites"] |= self._sites
            kept, axis = self._keep[node], self._known[node].axis
            if not kept.all():
                value = g.value(node)
                shape = list(value.shape)
                shape[axis] = int(kept.sum())
                values[node], node.meta["reference"] = value.new_empty(shape), None
        for node, value in values.items():  # after all are rewritten: they look at the sizes that were
            node.meta["val"] = value

    # --- telling ---------------------------------------------------------------------------------------

    def _entry(self, node: fx.Node) -> PrunedLayer | None:
        """What became of a layer's channels, where some are constant or go."""
        if node.target not in Layers.operators:
            return None
        kept = self._keep[node]
        left = np.flatnonzero(kept & self._known[node].known)
        if kept.all() and not len(left):
            return None
        return PrunedLayer(
            g.layer_name(node),
            len(kept),
            np.flatnonzero(~kept).tolist(),
            left.tolist(),
            self._last_reader(node) if len(left) and node in self._reader else None,
        )

    def _last_reader(self, node: fx.Node) -> str | None:
        """Who needs what stays, at the end of the chain of operators that pass the need on."""
        node = self._reader[node]
        while node in self._reader and node.target not in Layers.operators:
            node = self._reader[node]
        return "the network's output" if node.op == "output" else g.layer_name(node)


def weight_bytes(body: Body) -> int:
    """Bytes of all constants that the graph reads, in the types that they will be stored in."""
    names = {str(node.target) for node in body.graph.nodes if node.op == "get_attr" and node.users}
    total = 0
    for name in names:
        tensor = g.fetch(body.module, name)
        total += tensor.numel() * body.rounding.get(name, tensor.dtype).itemsize
    return total
