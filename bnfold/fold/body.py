"""The graph under the engine's hands: edges with pending affines, and constants of its own.

For the certificate, each node's ``meta["reference"]`` names the node of the captured graph that it must equal
(None: equal to nothing there, an affine has moved across it), and ``meta["sites"]`` the BatchNorms whose
folding touched it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import fx

from bnfold import graph as g
from bnfold.affine import Array
from bnfold.fold.pending import Owners, Pending, pending_affine
from bnfold.fold.rules import Move


class Body:
    """A copy of a captured graph that may be edited.

    Attributes:
        module: the graph; new constants are float64 buffers.
        pending, owners: by the node that stands for a pending affine, the affine and whose it is.
        rounding: dtype that each new constant is to be rounded to.
        made_of: the constant of the captured graph that a new one took the place of.
    """

    def __init__(self, captured: fx.GraphModule) -> None:
        self.module = g.copy_body(captured)
        self.graph = self.module.graph
        self.pending: dict[fx.Node, Pending] = {}
        self.owners: dict[fx.Node, Owners] = {}
        self.rounding: dict[str, torch.dtype] = {}
        self.made_of: dict[str, str] = {}
        for node in self.graph.nodes:
            node.meta["reference"], node.meta["sites"] = node.name, frozenset()

    def waiting(self) -> list[fx.Node]:
        """The pending affines that are there now, in execution order."""
        return [node for node in self.graph.nodes if node in self.pending]

    # --- pending affines --------------------------------------------------------------------------

    def plant(self, node: fx.Node, pending: Pending, owners: Owners, source: fx.Node) -> fx.Node:
        """Put a pending affine of ``source`` in the place of a call."""
        with self.graph.inserting_before(node):
            new = self.graph.call_function(pending_affine, (source,))
        new.meta = {**node.meta, "val": g.value(source)}
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        self.pending[new], self.owners[new] = pending, owners
        return new

    def insert(self, source: fx.Node, reader: fx.Node, pending: Pending, owners: Owners) -> fx.Node:
        """Put a pending affine on the edge from ``source`` to ``reader``."""
        with self.graph.inserting_before(reader):
            new = self.graph.call_function(pending_affine, (source,))
        new.meta = {key: reader.meta[key] for key in ("stack_trace", "nn_module_stack") if key in reader.meta}
        new.meta["val"] = g.value(source)
        reader.replace_input_with(source, new)
        self.pending[new], self.owners[new] = pending, owners
        return new

    def insert_after(self, operator: fx.Node, pending: Pending, owners: Owners) -> fx.Node:
        """Put a pending affine between an operator and all its readers; it takes over what they must see."""
        with self.graph.inserting_after(operator):
            new = self.graph.call_function(pending_affine, (operator,))
        new.meta = dict(operator.meta)
        operator.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        operator.meta["reference"] = None
        self.pending[new], self.owners[new] = pending, owners
        return new

    def take_out(self, node: fx.Node, instead: fx.Node) -> None:
        """Remove a pending affine; its readers read ``instead``."""
        node.replace_all_uses_with(instead)
        self.remove(node)

    def remove(self, node: fx.Node) -> None:
        """Remove a node that nothing reads."""
        self.pending.pop(node, None)
        self.owners.pop(node, None)
        self.graph.erase_node(node)

    # --- operators --------------------------------------------------------------------------------

    def apply(self, operator: fx.Node, move: Move) -> fx.Node:
        """Give the operator its new weights, or put another in its place."""
        if move.becomes is not None:
            with self.graph.inserting_before(operator):
                blank = [None] * (len(move.becomes._schema.arguments) - 1)
                new = self.graph.call_function(move.becomes, (g.data_input(operator), *blank))
            new.meta = dict(operator.meta)
            operator.replace_all_uses_with(new)
            self.graph.erase_node(operator)
            operator = new
        self.set_weights(operator, move.weights)
        for name, value in move.settings.items():
            g.set_argument(operator, name, value)
        return operator

    def set_weights(self, operator: fx.Node, weights: Mapping[str, Array]) -> None:
        """Give the call constants of its own; other calls that share the old ones are not touched."""
        for name, array in weights.items():
            old = g.argument_at(operator, name)
            stored = str(old.target) if isinstance(old, fx.Node) and old.op == "get_attr" else None
            base = f"{_home(operator)}.{name}" if stored is None else _unfolded(stored)
            new = self.constant(operator, base, array, g.dtype(operator))
            if stored is not None:
                self.made_of[str(new.target)] = self.made_of.get(stored, stored)
            g.set_argument(operator, name, new)

    def constant(self, reader: fx.Node, base: str, array: Array, dtype: torch.dtype) -> fx.Node:
        """A new constant before ``reader``. One that equals an earlier new one is not stored twice."""
        tensor = torch.from_numpy(np.array(array, dtype=np.float64))
        base = base if g.leads_through_modules(self.module, base) else base.replace(".", "_")
        name, count = f"{base}_folded", 1
        while g.has(self.module, name):
            mine = self.rounding.get(name) == dtype
            if mine and torch.equal(g.fetch(self.module, name), tensor):
                break
            count += 1
            name = f"{base}_folded_{count}"
        else:
            g.fill(self.module, name, tensor)
            self.rounding[name] = dtype
        with self.graph.inserting_before(reader):
            node = self.graph.get_attr(name)
        node.meta["val"] = torch.empty(tensor.shape, dtype=dtype, device="meta")
        node.meta["reference"], node.meta["sites"] = None, frozenset()
        return node


def _home(operator: fx.Node) -> str:
    """Where a constant of an operator is kept: next to its weight, or in the module that calls it."""
    weight = g.arguments(operator).get("weight")
    if isinstance(weight, fx.Node) and weight.op == "get_attr":
        return str(weight.target).rpartition(".")[0] or operator.name
    return g.module_path(operator) or operator.name


def _unfolded(name: str) -> str:
    """The name of a constant before it was folded: one that is folded again takes the same name."""
    return re.sub(r"_folded(_\d+)?$", "", name)
