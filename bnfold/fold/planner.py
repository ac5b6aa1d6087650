"""Looks for the cheapest legal way for one pending affine. Asks the rules, computes costs, edits nothing.

A plan starts at the pending node and follows the affine, operator by operator, until it is absorbed or
waits on an edge. Backward it goes through the producer, and from there on to the producer's own inputs;
forward it goes into every reader, or waits on the edge to that one. What it costs is what still waits at
its ends, the weights it copies, and what it makes of operators on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from bnfold import graph as g
from bnfold.affine import Affine
from bnfold.fold import cost, weights
from bnfold.fold.constants import Constants
from bnfold.fold.cost import Price
from bnfold.fold.pending import compose, pending_affine
from bnfold.fold.plan import Plan, Step, Undo
from bnfold.fold.rules import Move, Operator, Pending, Refusal, Rule

_MOST_QUESTIONS = 400  # to the rules, in one search: far-away absorbers are not worth the time


def _untouched(reader: fx.Node, source: fx.Node, here: Pending) -> bool:
    """Whether a slice of ``source`` reads only channels that the affine leaves as they are."""
    if reader.target is not torch.ops.aten.slice.Tensor or here.affine.map is not None:
        return False
    arguments = g.arguments(reader)
    if arguments["dim"] % g.value(source).ndim != here.axis:
        return False
    bounds = arguments["start"], arguments["end"], arguments["step"]
    if not all(bound is None or isinstance(bound, int) for bound in bounds):
        return False
    read = slice(*bounds)
    return here.affine.take(np.arange(here.affine.channels)[read]).is_identity


def _others(source: fx.Node, reader: fx.Node, here: Pending) -> list[fx.Node]:
    """Who else reads ``source``, and would see what an affine on the edge to ``reader`` did to it."""
    return [user for user in source.users if user is not reader and not _untouched(user, source, here)]


_NOT_CHEAPER = "moving it further would not make the network cheaper"
_BORDER = "behind zero padding its shift would still be one addition, different at the border"


@dataclass
class Planner:
    """Plans for one pending affine at a time.

    Args:
        rules: the rules to ask, by direction and operator.
        constants: float64 values of weights.
        pending: every pending node of the graph.
        is_frozen: whether a node is a pending affine that must stay as it is.
        sharing: a wide search, for what nothing else has moved: late rules are asked, and a scale may go into
            a producer that others read, anywhere on its way, and its inverse on through those.
    """

    rules: Iterable[Rule]
    constants: Constants
    pending: Mapping[fx.Node, Pending]
    is_frozen: Callable[[fx.Node], bool]
    sharing: bool = False
    _table: dict[tuple[str, Any], list[Rule]] = field(default_factory=dict)
    _questions: int = 0
    _undoing: bool = False

    def __post_init__(self) -> None:
        for rule in self.rules:
            for operator in rule.operators:
                self._table.setdefault((rule.direction, operator), []).append(rule)

    # --- what the engine asks for ------------------------------------------------------------------------

    def absorbed(self, node: fx.Node, here: Pending) -> Plan | None:
        """The plan that takes the whole affine into its producer's weights, where there is one."""
        self._questions = 0
        step, price = self._edge(node.all_input_nodes[0], node, here, [])
        if step is None or step.move.after or step.move.before or step.move.becomes or step.undone:
            return None
        if not price.beats(cost.lowered(here.affine, g.value(node))):
            return None
        return Plan(step, {}, None, here, price)

    def best(self, node: fx.Node, here: Pending) -> tuple[Plan | None, list[str]]:
        """Of the plans that are cheaper than leaving the affine where it is, the one that leaves the fewest
        operators, then the fewest bytes; and all refusals."""
        self._questions = 0
        refusals: list[str] = []
        source = node.all_input_nodes[0]
        step, price = self._edge(source, node, here, refusals)
        if step is None and not self.sharing:
            step, price = self._shared(source, node, here)
        plans = [] if step is None else [Plan(step, {}, None, here, price)]
        for stays, leaves in self._splits(here):
            steps, price = self._readers(node, leaves, refusals)
            if steps:
                if stays is not None:
                    price += cost.lowered(stays, g.value(node))
                plans.append(Plan(None, steps, stays, leaves, price))
        now = cost.lowered(here.affine, g.value(node))
        better = [plan for plan in plans if plan.price.beats(now) and plan.consistent(node)]
        if here.affine.map is not None:
            refusals.insert(0, "zero padding makes its shift differ at the border, which no bias can hold")
        elif plans and not better:
            refusals.append(_NOT_CHEAPER)
        return min(better, key=lambda plan: self._outlook(node, plan), default=None), refusals

    def _outlook(self, node: fx.Node, plan: Plan) -> tuple[int, float]:
        """What a plan leaves, once what a backward move leaves at ``node`` has gone on into the readers."""
        after = None if plan.backward is None else plan.backward.move.after
        if after is None or plan.backward is None or plan.backward.node in self.pending:
            return plan.price.operators, plan.price.bytes
        stays = cost.lowered(after.affine, g.value(node))
        steps, further = self._readers(node, after, [])
        gain = stays - further if steps and further.beats(stays) else Price()
        price = plan.price - gain
        return price.operators, price.bytes

    def turned(self, node: fx.Node, here: Pending) -> Plan | None:
        """The plan that makes scales positive at no cost, where that opens a way that is cheaper."""
        self._questions = 0
        source = g.data_input(node)
        if here.affine.map is not None or (here.affine.scale > 0).all() or len(source.users) > 1:
            return None
        if source.op != "call_function" or source in self.pending:
            return None
        answer = self._ask("backward", source, here, None)
        now = cost.lowered(here.affine, g.value(node))
        for rule, move in [] if isinstance(answer, Refusal) else answer:
            if move.after is None or len(move.before) != 1 or move.becomes is not None:
                continue
            before, edges = self._inputs(source, move, [])
            copied = weights.copies(source, move, here, self.pending, forward=False)
            price = edges + self._changes(source, move, copied)
            if price.bytes > 0 or price.operators > 0:
                continue  # something of it would wait before the operator
            left = cost.lowered(move.after.affine, g.value(node))
            further, _ = self.best(node, move.after)
            # a dead channel is in the way of others, too: nothing can be divided by its scale
            helps_others = (here.affine.scale == 0).any() and left.operators <= now.operators
            if helps_others or left.beats(now) or (further is not None and further.price.beats(now)):
                return Plan(Step(source, rule, move, backward=before), {}, None, here, left)
        return None

    def merges(self, node: fx.Node) -> Step | None:
        """The merge of a node's operands into one call, where a rule has one."""
        self._questions = 0
        if ("merge", node.target) not in self._table or any(map(self.is_frozen, node.all_input_nodes)):
            return None
        answer = self._ask("merge", node, Pending(Affine.identity(1), 0), None)
        return None if isinstance(answer, Refusal) else Step(node, *answer[0])

    # --- the search --------------------------------------------------------------------------------------

    @staticmethod
    def _splits(here: Pending) -> Iterator[tuple[Affine | None, Pending]]:
        """All of it forward; the scale, where the shift stays as x + t / s; the shift; all but the sign."""
        yield None, here
        affine = here.affine
        if affine.map is not None or not affine.has_scale:
            return
        split = affine.scale_after_shift()
        if split is not None and not split[1].is_identity:
            scale, shift = split
            yield shift, Pending(scale, here.axis)
        if affine.has_shift:
            yield affine.only_scale(), Pending(affine.without_scale(), here.axis)
        if (affine.scale < 0).any() and not (affine.scale < 0).all():
            sign = Affine(np.where(affine.scale < 0, -1.0, 1.0), np.zeros_like(affine.shift))
            yield sign, Pending(Affine(np.abs(affine.scale), affine.shift), here.axis)

    def _edge(
        self, source: fx.Node, reader: fx.Node, here: Pending, refusals: list[str]
    ) -> tuple[Step | None, Price]:
        """The cheapest way back for an affine on the edge from ``source``, or to leave it there (None)."""
        wait = (None, cost.lowered(here.affine, g.value(source)))
        if source.op == "placeholder":
            refusals.append(f"{source.name} is an input of the network")
            return wait
        others = _others(source, reader, here)
        if not others:
            return self._producer(source, here, refusals, wait)
        if self.sharing:
            step, price = self._shared(source, reader, here)
            if step is not None and price.beats(wait[1]):
                return step, price
        names = ", ".join("the network's output" if u.op == "output" else g.layer_name(u) for u in others)
        name = g.layer_name(source)
        again = f", and a second {name} would cost more than what is left over"
        refusals.append(
            f"the value of {name} is also read by {names}{again if weights.has_weight(source) else ''}"
        )
        return wait

    def _shared(self, source: fx.Node, reader: fx.Node, here: Pending) -> tuple[Step | None, Price]:
        """Into a producer that others read too, and undo it before them: worth it where that costs less.

        On the way of one undo there is no other: each would have to know what the first has changed.
        """
        nothing: tuple[Step | None, Price] = (None, Price())
        others = _others(source, reader, here)
        inverse = here.affine.inverse()
        if not others or inverse is None or self._undoing:
            return nothing
        if source.op == "placeholder" or source in self.pending:
            return nothing
        if self.sharing and here.affine.has_shift:
            return nothing  # a residual stream would carry it through the network, at the cost of its digits
        step, price = self._producer(source, here, [], (None, cost.lowered(here.affine, g.value(source))))
        if step is None or step.move.after is not None:
            return nothing
        undone = {}
        for user in others:
            undone[user], edge = self._undo(source, user, Pending(inverse, here.axis))
            price += edge
        return replace(step, undone=undone), price

    def _undo(self, source: fx.Node, user: fx.Node, inverse: Pending) -> tuple[Undo, Price]:
        """The inverse on the edge to one reader: into that, or to become one with what is pending there."""
        wait = cost.lowered(inverse.affine, g.value(source))
        if self.sharing:
            self._undoing = True
            step, price = self._reader(source, user, inverse, [])
            self._undoing = False
            if step is not None and price.beats(wait):
                return Undo(inverse, step), price
            return Undo(inverse, None), wait
        both = compose(inverse, self.pending[user]) if user in self.pending else None
        if both is None or self.is_frozen(user):
            return Undo(inverse, None), wait
        before = cost.lowered(self.pending[user].affine, g.value(user))
        return Undo(inverse, None), cost.lowered(both.affine, g.value(user)) - before

    def _producer(
        self, source: fx.Node, here: Pending, refusals: list[str], wait: tuple[Step | None, Price]
    ) -> tuple[Step | None, Price]:
        """The cheapest way back through ``source``, for all who read it."""
        if self.is_frozen(source):
            refusals.append("another affine comes first, which stays where it is")
            return wait
        if source in self.pending:
            return self._composed(source, here, refusals, wait)
        answer = self._ask("backward", source, here, None)
        if isinstance(answer, Refusal):
            refusals.append(answer.reason)
            return wait
        found: tuple[Step | None, Price] = wait
        why = _NOT_CHEAPER
        for rule, move in answer:
            copied = weights.copies(source, move, here, self.pending, forward=False)
            price = self._changes(source, move, copied)
            if move.after is not None:
                price += cost.lowered(move.after.affine, g.value(source))
            backward, edges = self._inputs(source, move, refusals)
            price += edges
            if price.beats(found[1]):
                found = Step(source, rule, move, backward=backward), price
            elif copied and (price - weights.price(copied)).beats(wait[1]):
                why = weights.declined(copied)
        if found[0] is None:
            refusals.append(why)
        return found

    def _composed(
        self, source: fx.Node, here: Pending, refusals: list[str], wait: tuple[Step | None, Price]
    ) -> tuple[Step | None, Price]:
        """On an edge behind another pending affine: the two become one, which may go back further."""
        first = self.pending[source]
        both = compose(first, here) if ("forward", pending_affine) in self._table else None
        if both is None:
            refusals.append("another affine comes first")
            return wait
        before = cost.lowered(first.affine, g.value(source))
        there = g.data_input(source)
        deeper, price = self._edge(there, source, both, refusals)
        if not (price - before).beats(wait[1]):
            refusals.append(_NOT_CHEAPER)
            return wait
        backward = {} if deeper is None else {there: deeper}
        return Step(source, "compose", Move(after=both), backward=backward), price - before

    def _inputs(self, node: fx.Node, move: Move, refusals: list[str]) -> tuple[dict[fx.Node, Step], Price]:
        """What a move leaves on the inputs of its operator: how it goes on there, and the price."""
        steps: dict[fx.Node, Step] = {}
        price = Price()
        for source, here in move.before.items():
            step, edge = self._edge(source, node, here, refusals)
            price += edge
            if step is not None:
                steps[source] = step
        return steps, price

    def _readers(
        self, node: fx.Node, here: Pending, refusals: list[str]
    ) -> tuple[dict[fx.Node, Step | None], Price]:
        """Into the readers of ``node``, or waiting on the edge to them; nothing where it moves into none."""
        steps: dict[fx.Node, Step | None] = {}
        price, wait = Price(), cost.lowered(here.affine, g.value(node))
        if not node.users:
            refusals.append("nothing reads it")
        for user in node.users:
            step, edge = self._reader(node, user, here, refusals)
            if step is not None and (edge.bytes > wait.bytes or edge.operators > wait.operators):
                refusals.append(self._why_not(user, step, here, edge, wait))
                step = None
            steps[user] = step
            price += wait if step is None else edge
        if all(step is None for step in steps.values()):
            return {}, wait
        return steps, price

    def _why_not(self, user: fx.Node, step: Step, here: Pending, edge: Price, wait: Price) -> str:
        """Why a step into a reader is dearer than waiting before it."""
        copied = weights.copies(user, step.move, here, self.pending, forward=True)
        without = edge - weights.price(copied)
        if copied and without.bytes <= wait.bytes and without.operators <= wait.operators:
            return weights.declined(copied)
        has_map = step.move.after is not None and step.move.after.affine.map is not None
        return _BORDER if has_map else _NOT_CHEAPER

    def _reader(
        self, node: fx.Node, user: fx.Node, here: Pending, refusals: list[str]
    ) -> tuple[Step | None, Price]:
        nothing = (None, Price())
        if user.op == "output":
            refusals.append("it is an output of the network")
            return nothing
        if self.is_frozen(user):
            refusals.append("another affine follows, which stays where it is")
            return nothing
        if g.times_read(user, node) != 1:
            refusals.append(f"{g.layer_name(user)} reads it twice")
            return nothing
        answer = self._ask("forward", user, here, node)
        if isinstance(answer, Refusal):
            refusals.append(answer.reason)
            return nothing
        found: tuple[Step | None, Price] = nothing
        most = cost.lowered(here.affine, g.value(node)).operators

        def rank(price: Price) -> tuple[bool, float]:
            return price.operators > most, price.bytes

        for rule, move in answer:
            copied = weights.copies(user, move, here, self.pending, forward=True)
            price = self._changes(user, move, copied)
            backward, edges = self._inputs(user, move, refusals)
            price += edges
            forward: Mapping[fx.Node, Step | None] = {}
            if user in self.pending:
                # composed: only what the composition costs more than the affine that was there
                price -= cost.lowered(self.pending[user].affine, g.value(user))
            if move.after is not None:
                stay = cost.lowered(move.after.affine, g.value(user))
                further, there = self._readers(user, move.after, [])
                if further and there.beats(stay):
                    forward, stay = further, there
                price += stay
            if found[0] is None or rank(price) < rank(found[1]):
                found = Step(user, rule, move, forward, backward), price
        return found

    # --- one operator ------------------------------------------------------------------------------------

    def _ask(
        self, direction: str, node: fx.Node, here: Pending, edge: fx.Node | None
    ) -> list[tuple[str, Move]] | Refusal:
        """Every move that the rules propose at this operator, or why there is none."""
        what = g.layer_name(node)
        rules = [
            rule
            for rule in self._table.get((direction, node.target), [])
            if (edge is None or rule.any_input or g.data_input(node) is edge)
            and (self.sharing or not rule.late)
        ]
        self._questions += 1
        if not rules:
            verb = "after" if direction == "backward" else "before"
            maker = g.data_input(node) if node.target is g.getitem else node
            return Refusal(f"no rule moves an affine from {verb} {g.operator_name(maker)} ({what})")
        if self._questions > _MOST_QUESTIONS:
            return Refusal(f"the search ends at {what}, too far away")
        operator = Operator(node, g.arguments(node), self.constants.value, self.pending, edge)
        moves: list[tuple[str, Move]] = []
        reasons = []
        for rule in rules:
            answer = rule.match(operator, here)
            if isinstance(answer, Refusal):
                reasons.append(f"{what}: {answer.reason}")
                continue
            for move in answer if isinstance(answer, tuple) else (answer,):
                unfit = weights.unfit(node, move)
                if unfit is None:
                    moves.append((rule.name, move))
                else:
                    reasons.append(f"{what}: {unfit}")
        return moves or Refusal("; ".join(reasons))

    def _changes(self, node: fx.Node, move: Move, copied: Mapping[str, torch.Tensor]) -> Price:
        """The price of weights that are copied, or of another operator."""
        if move.becomes is not None:
            return cost.replaced(node.target, move.becomes, g.value(node))
        return weights.price(copied)
