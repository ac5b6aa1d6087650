"""The only place that decides what happens to the graph, and in what order.

Every BatchNorm becomes a pending affine. Plain pairs are absorbed first, then parallel branches are merged,
then whatever plan makes the graph cheaper is carried out, until there is none; what is still pending at the
end is lowered to a multiplication and an addition, or one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import fx

from bnfold import graph as g
from bnfold.affine import Affine
from bnfold.capture import Captured
from bnfold.fold.account import Account
from bnfold.fold.body import Body
from bnfold.fold.canonical import (
    Splits,
    frozen_instance_norms,
    network_affines,
    use_maxima,
    use_one_name,
    use_shapes,
)
from bnfold.fold.constants import Constants
from bnfold.fold.lowering import lower
from bnfold.fold.pending import USER, Owners, Pending
from bnfold.fold.plan import Plan, Step
from bnfold.fold.planner import Planner
from bnfold.fold.products import Products
from bnfold.fold.prune import prune
from bnfold.fold.report import Pruning
from bnfold.fold.rules import Rule
from bnfold.fold.site import Site
from bnfold.fold.stacks import Stacks, use_concatenation

aten = torch.ops.aten


@dataclass
class Folded:
    """The edited graph with new weights still in float64.

    Attributes:
        body: the graph; new constants are float64 buffers.
        rounding: dtype that each new constant is to be rounded to.
        pruned: the channels that were removed; None where it was not asked for.
    """

    body: fx.GraphModule
    rounding: dict[str, torch.dtype]
    pruned: Pruning | None = None


class Engine:
    """Folds one captured graph. ``sites`` receive what became of them.

    Args:
        frozen_in_place: numbers of sites that are lowered where they stand, without any rule.
        prune: remove channels that are constant, or that nobody reads.
    """

    def __init__(
        self,
        captured: Captured,
        sites: list[Site],
        rules: Iterable[Rule],
        frozen_in_place: frozenset[int] = frozenset(),
        *,
        prune: bool = False,
    ) -> None:
        self._sites, self._prune = sites, prune
        self._frozen = frozen_in_place
        self._body = Body(captured.body)
        constants = Constants(self._body.module)
        self._plant()
        use_one_name(self._body.graph)
        use_shapes(self._body.graph)
        use_maxima(self._body.graph)
        use_concatenation(self._body.graph)
        self._products = Products(self._body.graph, constants) if self._body.pending else None
        own = 0
        for node, pending in frozen_instance_norms(self._body.graph, constants):
            self._body.plant(node, pending, Owners.all(USER), g.data_input(node))
            own += 2
        for node, pending in network_affines(self._body.graph, constants):
            # one after the other: the next may read what this one has just become
            assert pending.origin is not None
            self._body.plant(node, pending, Owners.all(USER), pending.origin.source)
            own += 1
        self._account = Account(sites, own)
        self._planner = Planner(rules, constants, self._body.pending, self._is_frozen)

    def run(self) -> Folded:
        """Fold to a fixpoint, lower what is left, and account for every BatchNorm."""
        splits, stacks = Splits(self._body.graph), Stacks(self._body.graph)
        self._absorb()
        for node in self._body.waiting():
            if (self._body.pending[node].affine.scale == 0).any():
                self._turn(node)  # before a dead channel is joined with others
        for sharing in (False, True):  # what nothing else has moved is tried once more, in a wider search
            self._planner.sharing = sharing
            while self._merge() or self._improve() or any(map(self._turn, self._body.waiting())):
                pass
        lower(self._body, self._sites)
        pruned = prune(self._body, self._with_dead_channels()) if self._prune else None
        splits.restore()
        stacks.restore()
        if self._products is not None:
            self._products.restore()
        g.clean(self._body.module)
        self._account.settle(self._body)
        return Folded(self._body.module, self._body.rounding, pruned)

    def _with_dead_channels(self) -> list[int]:
        return [
            number
            for number, site in enumerate(self._sites)
            if site.affine is not None and (site.affine.scale == 0).any()
        ]

    def _plant(self) -> None:
        """Replace each BatchNorm that can be frozen by a pending affine."""
        by_name = {node.name: node for node in self._body.graph.nodes}
        for number, site in enumerate(self._sites):
            node = by_name[site.node]
            if site.affine is None:
                continue
            written = site.written
            source = g.data_input(node)
            if written is not None:
                source = cast(fx.Node, by_name[written.nodes[0].name].args[written.position])
            elif g.makes_several(node):
                # (output, saved mean, saved inverse deviation): eval mode reads only the first
                self._take_first_result(node)
            new = self._body.plant(node, Pending(site.affine, site.axis), Owners.all(number), source)
            new.meta["sites"] = frozenset({number})
            for part in reversed(written.nodes[:-1] if written else ()):
                self._body.graph.erase_node(by_name[part.name])

    def _take_first_result(self, node: fx.Node) -> None:
        for user in list(node.users):
            if user.target is not g.getitem or user.args[1] != 0:
                raise AssertionError(f"{node.target} is read in a form that eval mode does not have")
            node.meta["reference"] = user.meta["reference"]
            user.replace_all_uses_with(node)
            self._body.graph.erase_node(user)

    def _is_frozen(self, node: fx.Node) -> bool:
        if node not in self._body.pending:
            return False
        owners = self._body.owners[node]
        return bool({owners.scale, owners.shift, owners.map} & self._frozen)

    # --- what is tried, in this order -------------------------------------------------------------

    def _absorb(self) -> None:
        """What goes into its producer as a whole: plain pairs, before anything is weighed up."""
        for node in self._body.waiting():
            plan = None if self._is_frozen(node) else self._planner.absorbed(node, self._body.pending[node])
            if plan is not None:
                self._carry_out(node, plan)

    def _merge(self) -> bool:
        """Make one call of two parallel branches, or of two in a row; False where there are none left."""
        for node in self._body.graph.nodes:
            step = None if node.op != "call_function" else self._planner.merges(node)
            if step is not None:
                self._merge_at(node, step)
                return True
        return False

    def _improve(self) -> bool:
        """Carry out, once along the graph, every plan that makes it cheaper; False at the fixpoint."""
        improved = False
        for node in self._body.waiting():
            if node not in self._body.pending or self._is_frozen(node):
                continue  # an earlier plan took it along
            affine = self._body.pending[node].affine
            if affine.is_identity:
                self._drop(node)
                improved = True
                continue
            plan, refusals = self._planner.best(node, self._body.pending[node])
            self._account.stuck(self._body.owners[node].of(affine), refusals)
            if plan is not None:
                self._carry_out(node, plan)
                improved = True
        return improved

    def _turn(self, node: fx.Node) -> bool:
        """Give an affine positive scales where that helps; False where it does not."""
        plan = None if self._is_frozen(node) else self._planner.turned(node, self._body.pending[node])
        if plan is not None:
            self._carry_out(node, plan)
        return plan is not None

    # --- how it is carried out --------------------------------------------------------------------

    def _drop(self, node: fx.Node) -> None:
        """Take out a pending affine that does nothing."""
        source = g.data_input(node)
        if source.meta["reference"] is None:
            source.meta["reference"] = node.meta["reference"]
        source.meta["sites"] |= node.meta["sites"]
        self._body.take_out(node, source)

    def _carry_out(self, node: fx.Node, plan: Plan) -> None:
        if plan.backward is None:
            self._forward(node, plan.forward, plan.leaves, plan.stays)
            return
        self._backward(node, plan.backward)

    def _backward(self, node: fx.Node, step: Step) -> None:
        """``node`` is pending on the output of ``step.node``; what else reads that gets its value back."""
        self._undo(node, step)
        move, owners = step.move, self._body.owners[node].across(self._body.pending[node].affine)
        self._account.moved(owners.of(self._body.pending[node].affine), step, self._body)
        if step.node in self._body.pending:
            operator = step.node
            assert move.after is not None
            first = self._body.owners[operator]
            joint = owners.after(first, self._body.pending[node].affine, self._body.pending[operator].affine)
            self._account.composed(first, owners, step.rule)
            self._body.pending[operator], self._body.owners[operator] = move.after, joint
            operator.meta["sites"] |= node.meta["sites"]
            operator.meta["reference"] = node.meta["reference"]
            self._body.take_out(node, operator)
            for deeper in step.backward.values():
                self._backward(operator, deeper)
            return
        operator = self._body.apply(step.node, move)
        operator.meta["sites"] |= node.meta["sites"]
        if move.after is None:
            operator.meta["reference"] = node.meta["reference"]
            self._body.take_out(node, operator)
        else:
            operator.meta["reference"] = None
            self._body.pending[node] = move.after
        self._before(operator, step, owners)

    def _undo(self, node: fx.Node, step: Step) -> None:
        """Put the inverse of what is pending at ``node`` before the other readers of its producer."""
        source, owners = step.node, self._body.owners[node]
        for reader, undo in step.undone.items():
            new = self._body.insert(source, reader, undo.pending, owners)
            new.meta["sites"], new.meta["reference"] = node.meta["sites"], source.meta["reference"]
            if undo.step is not None:
                self._forward(new, {reader: undo.step}, undo.pending, None)

    def _forward(
        self, node: fx.Node, steps: Mapping[fx.Node, Step | None], leaves: Pending, stays: Affine | None
    ) -> None:
        """``node`` is pending; ``leaves`` goes into its readers, or waits on the edge to them."""
        here = self._body.pending[node]
        owners = self._body.owners[node].across(here.affine)
        source = g.data_input(node) if stays is None else node
        moved, reference = owners.of(here.affine), node.meta["reference"]
        if stays is not None:
            self._body.pending[node] = Pending(stays, here.axis)
            node.meta["reference"] = None
        for reader, step in steps.items():
            if step is None:
                waiting = self._body.insert(node, reader, leaves, owners)
                waiting.meta["sites"], waiting.meta["reference"] = node.meta["sites"], reference
                waiting.replace_input_with(node, source)
                continue
            self._account.moved(moved, step, self._body)
            move = step.move
            reader.meta["sites"] |= node.meta["sites"]
            if reader in self._body.pending:
                assert move.after is not None
                second = self._body.owners[reader]
                joint = second.after(owners, self._body.pending[reader].affine, leaves.affine)
                self._account.composed(owners, second, step.rule)
                self._body.pending[reader], self._body.owners[reader] = move.after, joint
                reader.replace_input_with(node, source)
                if step.forward:
                    self._forward(reader, step.forward, move.after, None)
                continue
            self._before(reader, step, owners, onto=node)
            operator = self._body.apply(reader, move)
            operator.replace_input_with(node, source)
            if move.after is not None:
                new = self._body.insert_after(operator, move.after, owners)
                if step.forward:
                    self._forward(new, step.forward, move.after, None)
        if stays is None:
            self._body.remove(node)

    def _before(self, operator: fx.Node, step: Step, owners: Owners, onto: fx.Node | None = None) -> None:
        """Put what a move leaves on its operator's inputs there, and move it on."""
        for source, here in step.move.before.items():
            if source is onto:
                raise AssertionError("a forward move left something on the edge that it came from")
            new = self._body.insert(source, operator, here, owners)
            new.meta["sites"], new.meta["reference"] = operator.meta["sites"], None
            if source in step.backward:
                self._backward(new, step.backward[source])

    def _merge_at(self, node: fx.Node, step: Step) -> None:
        """Put one call with new weights in the place of ``node`` and what only it reads."""
        host = step.move.host
        assert host is not None
        inputs = node.all_input_nodes
        sites = node.meta["sites"].union(*(s.meta["sites"] for s in inputs))
        if host in self._body.pending:
            new = self._merge_terms(node, step, g.data_input(host))
        else:
            with self._body.graph.inserting_before(node):
                new = self._body.graph.node_copy(host)
            new.meta = {**host.meta, "reference": node.meta["reference"], "val": g.value(node)}
            self._account.moved(sites, step, self._body)
            self._body.set_weights(new, step.move.weights)
            node.replace_all_uses_with(new)
            self._body.graph.erase_node(node)
        new.meta["sites"] = sites
        for source in inputs:
            if not source.users and source.op == "call_function":
                self._body.remove(source)

    def _merge_terms(self, node: fx.Node, step: Step, value: fx.Node) -> fx.Node:
        """Put one pending affine of ``value`` in the place of a sum of two; the sum is the network's own."""
        terms = [source for source in node.all_input_nodes if source in self._body.pending]
        terms = [term for term in terms if g.data_input(term) is value]
        after, first, last = step.move.after, terms[0], terms[-1]
        assert after is not None
        affines = [self._body.pending[term].affine for term in (first, last)]
        one, other = self._body.owners[first], self._body.owners[last]
        self._account.moved(one.of(affines[0]) | other.of(affines[1]), step, self._body)
        self._account.summed(one, other, step.rule)
        owners = replace(one.after(other, *affines), scale=USER)
        return self._body.plant(node, after, owners, value)
