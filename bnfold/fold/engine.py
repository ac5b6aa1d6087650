"""The only place that edits the graph.

Every BatchNorm becomes a pending affine. While there is a plan that makes the graph cheaper, it is
carried out; what is still pending at the end is lowered to a multiplication and an addition, or one of
them.

For the certificate, each node's ``meta["reference"]`` names the node of the captured graph that it must
equal (None: equal to nothing there, an affine has moved across it), and ``meta["sites"]`` the BatchNorms
whose folding touched it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.node import map_arg

from bnfold import graph as g
from bnfold.affine import Affine, Array
from bnfold.capture import Captured
from bnfold.fold.canonical import Splits, network_affines, use_linear, use_shapes
from bnfold.fold.constants import Constants
from bnfold.fold.pending import USER, Origin, Owners, Pending, pending_affine
from bnfold.fold.planner import Plan, Planner, Step
from bnfold.fold.rules import Move, Rule
from bnfold.fold.site import Site

aten = torch.ops.aten


@dataclass
class Folded:
    """The edited graph with new weights still in float64.

    Attributes:
        body: the graph; new constants are float64 buffers.
        rounding: dtype that each new constant is to be rounded to.
    """

    body: fx.GraphModule
    rounding: dict[str, torch.dtype]


@dataclass
class Engine:
    """Folds one captured graph. ``sites`` receive what became of them.

    ``frozen_in_place`` are numbers of sites that are lowered where they stand, without any rule.
    """

    captured: Captured
    sites: list[Site]
    rules: Iterable[Rule]
    frozen_in_place: frozenset[int] = frozenset()
    pending: dict[fx.Node, Pending] = field(default_factory=dict)
    owners: dict[fx.Node, Owners] = field(default_factory=dict)
    rounding: dict[str, torch.dtype] = field(default_factory=dict)
    company: dict[int, set[int]] = field(default_factory=dict)

    def run(self) -> Folded:
        """Fold to a fixpoint, lower what is left, and account for every BatchNorm."""
        self.body = g.copy_body(self.captured.body)
        self.graph = self.body.graph
        self.constants = Constants(self.body)
        self._plant()
        use_shapes(self.graph)
        use_linear(self.graph, self.constants, self.pending)
        for node, own in network_affines(self.graph, self.constants):
            self._plant_at(node, own, Owners.all(USER))
        splits = Splits(self.graph)
        planner = Planner(self.rules, self.constants, self.pending, self._is_frozen)
        self._absorb(planner)
        while self._merge(planner) or self._improve(planner):
            pass
        self._lower()
        splits.restore()
        g.clean(self.body)
        self._set_statuses()
        return Folded(self.body, self.rounding)

    def _plant(self) -> None:
        """Replace each BatchNorm that can be frozen by a pending affine."""
        by_name = {node.name: node for node in self.graph.nodes}
        for node in self.graph.nodes:
            node.meta["reference"], node.meta["sites"] = node.name, frozenset()
        for number, site in enumerate(self.sites):
            node = by_name[site.node]
            if site.affine is None:
                continue
            if node.target not in (aten.batch_norm.default, aten.cudnn_batch_norm.default):
                # (output, saved mean, saved inverse deviation): eval mode reads only the first
                self._take_first_result(node)
            new = self._plant_at(node, Pending(site.affine, 1), Owners.all(number))
            new.meta["sites"] = frozenset({number})

    def _plant_at(self, node: fx.Node, pending: Pending, owners: Owners) -> fx.Node:
        """Put a pending affine in the place of a call."""
        source = pending.origin.source if pending.origin else g.data_input(node)
        with self.graph.inserting_before(node):
            new = self.graph.call_function(pending_affine, (source,))
        new.meta = {**node.meta, "val": g.value(source)}
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        self.pending[new], self.owners[new] = pending, owners
        return new

    def _take_first_result(self, node: fx.Node) -> None:
        for user in list(node.users):
            if user.target is not g.getitem or user.args[1] != 0:
                raise AssertionError(f"{node.target} is read in a form that eval mode does not have")
            user.replace_all_uses_with(node)
            self.graph.erase_node(user)

    def _absorb(self, planner: Planner) -> None:
        """What goes into its producer as a whole: plain pairs, before anything is weighed up."""
        for node in list(self.graph.nodes):
            if node in self.pending and not self._is_frozen(node):
                plan = planner.absorbed(node, self.pending[node])
                if plan is not None:
                    self._carry_out(node, plan)

    def _merge(self, planner: Planner) -> bool:
        """Make one call of two parallel branches; False where there are none left."""
        for node in self.graph.nodes:
            step = None if node.op != "call_function" else planner.merges(node)
            if step is not None:
                self._merge_at(node, step)
                return True
        return False

    def _improve(self, planner: Planner) -> bool:
        """Carry out, once along the graph, every plan that makes it cheaper; False at the fixpoint."""
        improved = False
        for node in list(self.graph.nodes):
            if node not in self.pending:
                continue
            if self.pending[node].affine.is_identity:
                self._drop(node)
                improved = True
                continue
            if self._is_frozen(node):
                continue
            plan, refusals = planner.best(node, self.pending[node])
            for owner in self.owners[node].of(self.pending[node].affine):
                self.sites[owner].entry.reason = "; ".join(dict.fromkeys(refusals))
            if plan is not None:
                self._carry_out(node, plan)
                improved = True
        return improved

    def _is_frozen(self, node: fx.Node) -> bool:
        if node not in self.pending:
            return False
        owners = self.owners[node]
        return bool({owners.scale, owners.shift, owners.map} & self.frozen_in_place)

    def _drop(self, node: fx.Node) -> None:
        """Take out a pending affine that does nothing."""
        source = g.data_input(node)
        if source.meta["reference"] is None:
            source.meta["reference"] = node.meta["reference"]
        source.meta["sites"] |= node.meta["sites"]
        node.replace_all_uses_with(source)
        self._forget(node)

    def _forget(self, node: fx.Node) -> None:
        del self.pending[node], self.owners[node]
        self.graph.erase_node(node)

    def _carry_out(self, node: fx.Node, plan: Plan) -> None:
        if plan.backward is not None:
            source, owners = g.data_input(node), self.owners[node]
            for reader, undo in plan.undone.items():
                new = self._insert(source, reader, undo, owners)
                new.meta["sites"], new.meta["reference"] = node.meta["sites"], source.meta["reference"]
            self._backward(node, plan.backward)
        else:
            self._forward(node, plan.forward, plan.leaves, plan.stays)

    def _backward(self, node: fx.Node, step: Step) -> None:
        """``node`` is pending on the output of ``step.node``, and its only reader."""
        move, owners = step.move, self.owners[node].across(self.pending[node].affine)
        self._note(owners.of(self.pending[node].affine), step)
        if step.node in self.pending:
            operator = step.node
            assert move.after is not None
            first = self.owners[operator]
            joint = owners.after(first, self.pending[node].affine, self.pending[operator].affine)
            self._remember(first, owners)
            self.pending[operator], self.owners[operator] = move.after, joint
            operator.meta["sites"] |= node.meta["sites"]
            operator.meta["reference"] = node.meta["reference"]
            node.replace_all_uses_with(operator)
            self._forget(node)
            for deeper in step.backward.values():
                self._backward(operator, deeper)
            return
        operator = self._apply(step.node, move)
        operator.meta["sites"] |= node.meta["sites"]
        if move.after is None:
            operator.meta["reference"] = node.meta["reference"]
            node.replace_all_uses_with(operator)
            self._forget(node)
        else:
            operator.meta["reference"] = None
            self.pending[node] = move.after
        self._before(operator, step, owners)

    def _forward(
        self, node: fx.Node, steps: Mapping[fx.Node, Step | None], leaves: Pending, stays: Affine | None
    ) -> None:
        """``node`` is pending; ``leaves`` goes into its readers, or waits on the edge to them."""
        here = self.pending[node]
        owners = self.owners[node].across(here.affine)
        source = g.data_input(node) if stays is None else node
        moved, reference = owners.of(here.affine), node.meta["reference"]
        if stays is not None:
            self.pending[node] = Pending(stays, here.axis)
            node.meta["reference"] = None
        for reader, step in steps.items():
            if step is None:
                waiting = self._insert(node, reader, leaves, owners)
                waiting.meta["sites"], waiting.meta["reference"] = node.meta["sites"], reference
                waiting.replace_input_with(node, source)
                continue
            self._note(moved, step)
            move = step.move
            reader.meta["sites"] |= node.meta["sites"]
            if reader in self.pending:
                assert move.after is not None
                second = self.owners[reader]
                joint = second.after(owners, self.pending[reader].affine, leaves.affine)
                self._remember(owners, second)
                self.pending[reader], self.owners[reader] = move.after, joint
                reader.replace_input_with(node, source)
                if step.forward:
                    self._forward(reader, step.forward, move.after, None)
                continue
            self._before(reader, step, owners, onto=node)
            operator = self._apply(reader, move)
            operator.replace_input_with(node, source)
            if move.after is not None:
                new = self._insert_after(operator, move.after, owners)
                if step.forward:
                    self._forward(new, step.forward, move.after, None)
        if stays is None:
            self._forget(node)

    def _before(self, operator: fx.Node, step: Step, owners: Owners, onto: fx.Node | None = None) -> None:
        """Put what a move leaves on its operator's inputs there, and move it on."""
        for source, here in step.move.before.items():
            if source is onto:
                raise AssertionError("a forward move left something on the edge that it came from")
            new = self._insert(source, operator, here, owners)
            new.meta["sites"], new.meta["reference"] = operator.meta["sites"], None
            if source in step.backward:
                self._backward(new, step.backward[source])

    def _apply(self, operator: fx.Node, move: Move) -> fx.Node:
        """Give the operator its new weights, or put another in its place."""
        if move.becomes is not None:
            with self.graph.inserting_before(operator):
                schema = move.becomes._schema.arguments
                blank = (g.data_input(operator), *[None] * (len(schema) - 1))
                new = self.graph.call_function(move.becomes, blank)
            new.meta = dict(operator.meta)
            operator.replace_all_uses_with(new)
            self.graph.erase_node(operator)
            operator = new
        self._set_weights(operator, move.weights)
        return operator

    def _merge_at(self, node: fx.Node, step: Step) -> None:
        """Put one call with new weights in the place of ``node`` and the branches that only it reads."""
        host = step.move.host
        assert host is not None
        branches = [source for source in node.all_input_nodes if source in self.pending or source is not host]
        with self.graph.inserting_before(node):
            new = self.graph.node_copy(host)
        new.meta = {**host.meta, "reference": node.meta["reference"]}
        new.meta["sites"] = node.meta["sites"].union(*(s.meta["sites"] for s in node.all_input_nodes))
        new.meta["val"] = g.value(node)
        for source in branches:
            if source in self.pending:
                self._note(self.owners[source].of(self.pending[source].affine), step)
        self._set_weights(new, step.move.weights)
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        for source in {host, *branches}:
            if not source.users and source.op == "call_function":
                self._remove(source)

    def _remove(self, node: fx.Node) -> None:
        if node in self.pending:
            self._forget(node)
        else:
            self.graph.erase_node(node)

    def _insert(self, source: fx.Node, reader: fx.Node, pending: Pending, owners: Owners) -> fx.Node:
        with self.graph.inserting_before(reader):
            new = self.graph.call_function(pending_affine, (source,))
        new.meta = {key: reader.meta[key] for key in ("stack_trace", "nn_module_stack") if key in reader.meta}
        new.meta["val"] = g.value(source)
        reader.replace_input_with(source, new)
        self.pending[new], self.owners[new] = pending, owners
        return new

    def _insert_after(self, operator: fx.Node, pending: Pending, owners: Owners) -> fx.Node:
        with self.graph.inserting_after(operator):
            new = self.graph.call_function(pending_affine, (operator,))
        new.meta = dict(operator.meta)
        operator.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        operator.meta["reference"] = None
        self.pending[new], self.owners[new] = pending, owners
        return new

    def _note(self, owners: frozenset[int], step: Step) -> None:
        for owner in owners:
            entry = self.sites[owner].entry
            if step.rule not in entry.rules:
                entry.rules.append(step.rule)
            if step.move.weights:
                name = g.layer_name(step.node)
            elif step.node in self.pending and self.owners[step.node].shift != USER:
                name = self.sites[self.owners[step.node].shift].entry.name
            else:
                continue
            if name not in entry.into:
                entry.into.append(name)

    def _set_weights(self, operator: fx.Node, weights: Any) -> None:
        """Give the call constants of its own; other calls that share the old ones are not touched."""
        for name, array in weights.items():
            old = g.argument_at(operator, name)
            if isinstance(old, fx.Node):
                is_stored = old.op == "get_attr"
                base = _unfolded(str(old.target)) if is_stored else f"{self._base(operator)}.{name}"
            else:
                base = f"{self._base(operator)}.{name}"
            node = self._constant(operator, base, array, g.dtype(operator))
            g.set_argument(operator, name, node)

    @staticmethod
    def _base(operator: fx.Node) -> str:
        weight = g.arguments(operator).get("weight")
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            return str(weight.target).rpartition(".")[0] or operator.name
        return g.module_path(operator) or operator.name

    def _constant(self, reader: fx.Node, base: str, array: Array, dtype: torch.dtype) -> fx.Node:
        """A new constant before ``reader``. One that equals an earlier new one is not stored twice."""
        tensor = torch.from_numpy(np.array(array, dtype=np.float64))
        base = base if g.leads_through_modules(self.body, base) else base.replace(".", "_")
        name, count = f"{base}_folded", 1
        while g.has(self.body, name):
            mine = self.rounding.get(name) == dtype
            if mine and torch.equal(g.fetch(self.body, name), tensor):
                break
            count += 1
            name = f"{base}_folded_{count}"
        else:
            g.fill(self.body, name, tensor)
            self.rounding[name] = dtype
        with self.graph.inserting_before(reader):
            node = self.graph.get_attr(name)
        node.meta["val"] = torch.empty(tensor.shape, dtype=dtype, device="meta")
        node.meta["reference"], node.meta["sites"] = None, frozenset()
        return node

    def _lower(self) -> None:
        """Write what is still pending as a multiplication and an addition."""
        for node in list(self.graph.nodes):
            if node not in self.pending:
                continue
            pending, owners = self.pending[node], self.owners[node]
            affine, ndim = pending.affine, g.value(node).ndim
            shape = [1] * ndim
            shape[pending.axis] = affine.channels
            result = g.data_input(node)
            if pending.origin is not None:
                self._restore(node, pending.origin)
                continue
            parts: list[tuple[Any, Array, int]] = []
            if affine.has_scale:
                parts.append((aten.mul.Tensor, affine.scale.reshape(shape), owners.scale))
            if affine.map is not None:
                total = affine.map[None] + affine.shift.reshape(shape)
                parts.append((aten.add.Tensor, total, owners.map))
            elif affine.has_shift:
                parts.append((aten.add.Tensor, affine.shift.reshape(shape), owners.shift))
            for operator, array, owner in parts:
                role = "scale" if operator is aten.mul.Tensor else "shift"
                named = "own" if owner == USER else self.sites[owner].entry.name.replace("#", "_")
                base = f"{named}.{role}"
                constant = self._constant(node, base, array, g.value(node).dtype)
                with self.graph.inserting_before(node):
                    result = self.graph.call_function(operator, (result, constant))
                result.meta = dict(node.meta)
                result.meta["reference"] = None
                result.meta["left_by"] = owner
            result.meta["reference"] = node.meta["reference"]
            node.replace_all_uses_with(result)
            self._forget(node)

    def _restore(self, node: fx.Node, origin: Origin) -> None:
        """Put back a call of the network's own that never moved."""
        source = g.data_input(node)
        args, kwargs = map_arg(
            (origin.args, origin.kwargs), lambda n: source if n is origin.source else n
        )
        with self.graph.inserting_before(node):
            result = self.graph.call_function(origin.target, args, kwargs)
        result.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        self._forget(node)

    def _share_out(self, left: dict[int, int]) -> None:
        """What affines that were composed have left belongs to all of them alike."""
        for owner in left:
            for other in sorted(self.company.get(owner, ())):
                while left[owner] > left[other] + 1:
                    left[owner] -= 1
                    left[other] += 1

    def _remember(self, first: Owners, second: Owners) -> None:
        """That affines of these owners were composed."""
        together = {first.scale, first.shift, first.map, second.scale, second.shift, second.map} - {USER}
        for owner in together:
            self.company.setdefault(owner, set()).update(together - {owner})

    def _set_statuses(self) -> None:
        """Count what is left in the graph, by the BatchNorm that answers for it."""
        left = dict.fromkeys(range(len(self.sites)), 0)
        for node in self.graph.nodes:
            owner = node.meta.get("left_by", USER)
            if owner != USER:
                left[owner] += 1
        self._share_out(left)
        for number, site in enumerate(self.sites):
            if site.affine is None:
                continue
            count = left[number]
            site.entry.status = "folded" if count == 0 else "reduced" if count == 1 else "kept"
            if count == 0:
                site.entry.reason = None
            elif site.entry.reason is None:
                site.entry.reason = "what is left cannot move further"


def _unfolded(name: str) -> str:
    """The name of a constant before it was folded: one that is folded again takes the same name."""
    return re.sub(r"_folded(_\d+)?$", "", name)
