"""Looks for the cheapest legal way for one pending affine. Asks the rules, computes costs, edits nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from bnfold import graph as g
from bnfold.affine import Affine
from bnfold.fold import cost
from bnfold.fold.constants import Constants
from bnfold.fold.rules import Move, Operator, Pending, Refusal, Rule


@dataclass(frozen=True)
class Step:
    """One move at one operator. ``rest`` continues from what the move left pending on the far side."""

    node: fx.Node
    rule: str
    move: Move
    rest: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A way out: ``steps`` from the pending node, and what stays pending there.

    Attributes:
        direction: ``backward`` or ``forward``.
        stays: the part that stays at the pending node (forward moves only); None for nothing.
        cost: of everything still to be lowered, and of weights copied.
    """

    direction: str
    steps: tuple[Step, ...]
    stays: Affine | None
    cost: float


def _why_not_cheaper(plans: Iterable[Plan]) -> str:
    moves = [step.move for plan in plans for step in plan.steps]
    if any(move.after is not None and move.after.affine.map is not None for move in moves):
        return "behind zero padding its shift would still be one addition, different at the border"
    return "moving it further would not make the network cheaper"


@dataclass
class Planner:
    """Plans for one pending affine at a time.

    Args:
        rules: the rules to ask, by direction and operator.
        constants: float64 values of weights.
        pending: every pending node of the graph.
    """

    rules: Iterable[Rule]
    constants: Constants
    pending: Mapping[fx.Node, Pending]
    _table: dict[tuple[str, Any], list[Rule]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rule in self.rules:
            for operator in rule.operators:
                self._table.setdefault((rule.direction, operator), []).append(rule)

    def best(self, node: fx.Node, here: Pending) -> tuple[Plan | None, list[str]]:
        """The cheapest plan that is cheaper than leaving the affine where it is, and all refusals."""
        source = node.all_input_nodes[0]
        plans: list[Plan] = []
        refusals: list[str] = []
        backward = self._backward(source, node, here)
        if isinstance(backward, Refusal):
            refusals.append(backward.reason)
        else:
            plans.append(backward)
        for stays, leaves in self._splits(here):
            forward = self._forward(node, leaves)
            if isinstance(forward, Refusal):
                refusals.append(forward.reason)
                continue
            steps, price = forward
            if stays is not None:
                price += cost.lowered(stays, g.value(node))
            plans.append(Plan("forward", steps, stays, price))
        now = cost.lowered(here.affine, g.value(node))
        better = [plan for plan in plans if plan.cost < now]
        if here.affine.map is not None:
            refusals.insert(0, "zero padding makes its shift differ at the border, which no bias can hold")
        elif plans and not better:
            refusals.append(_why_not_cheaper(plans))
        return (min(better, key=lambda plan: plan.cost) if better else None), refusals

    @staticmethod
    def _splits(here: Pending) -> Iterable[tuple[Affine | None, Pending]]:
        """All of it forward; or the scale forward, and the shift stays as x + t / s."""
        yield None, here
        split = here.affine.scale_after_shift() if here.affine.has_scale else None
        if split is not None and not split[1].is_identity:
            scale, shift = split
            yield shift, Pending(scale, here.axis)

    def _ask(self, direction: str, node: fx.Node, here: Pending) -> tuple[str, Move] | Refusal:
        what = g.layer_name(node)
        rules = self._table.get((direction, node.target), [])
        if not rules:
            verb = "after" if direction == "backward" else "before"
            return Refusal(f"no rule moves an affine from {verb} {g.operator_name(node)} ({what})")
        operator = Operator(
            node, g.arguments(node), lambda name: self._constant(node, name), self.pending.get(node)
        )
        reasons = []
        for rule in rules:
            answer = rule.match(operator, here)
            if isinstance(answer, Move):
                overflow = self._overflow(node, answer)
                if overflow is None:
                    return rule.name, answer
                answer = overflow
            reasons.append(f"{what}: {answer.reason}")
        return Refusal("; ".join(reasons))

    def _constant(self, node: fx.Node, name: str) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        argument = g.arguments(node)[name]
        return self.constants.value(argument) if isinstance(argument, fx.Node) else None

    @staticmethod
    def _overflow(node: fx.Node, move: Move) -> Refusal | None:
        dtype = g.value(node).dtype
        largest = torch.finfo(dtype).max
        for name, array in move.weights.items():
            if array.size and not np.abs(array).max() <= largest:
                return Refusal(f"the folded {name} would overflow {g.dtype_name(dtype)}")
        return None

    def _backward(self, source: fx.Node, reader: fx.Node, here: Pending) -> Plan | Refusal:
        found = self._backward_step(source, reader, here)
        if isinstance(found, Refusal):
            return found
        step, price = found
        return Plan("backward", (step,), None, price)

    def _backward_step(self, source: fx.Node, reader: fx.Node, here: Pending) -> tuple[Step, float] | Refusal:
        others = [user for user in source.users if user is not reader]
        if source.op == "placeholder":
            return Refusal(f"{source.name} is an input of the network")
        if others:
            names = ", ".join("the network's output" if u.op == "output" else g.layer_name(u) for u in others)
            return Refusal(f"the value of {g.layer_name(source)} is also read by {names}")
        if source in self.pending:
            return Refusal("another affine comes first")
        answer = self._ask("backward", source, here)
        if isinstance(answer, Refusal):
            return answer
        rule, move = answer
        price = self._copies(source, move)
        if move.after is not None:
            price += cost.lowered(move.after.affine, g.value(source))
        rest: tuple[Step, ...] = ()
        if move.before is not None:
            data = g.data_input(source)
            stay = cost.lowered(move.before.affine, g.value(data))
            deeper = self._backward_step(data, source, move.before)
            if not isinstance(deeper, Refusal) and deeper[1] < stay:
                rest, stay = (deeper[0],), deeper[1]
            elif isinstance(deeper, Refusal) and not move.weights:
                return deeper  # a move that only passes the affine on is of no use by itself
            price += stay
        return Step(source, rule, move, rest), price

    def _forward(self, node: fx.Node, here: Pending) -> tuple[tuple[Step, ...], float] | Refusal:
        """Into every reader of ``node``, or into none."""
        steps: list[Step] = []
        price = 0.0
        if not node.users:
            return Refusal("nothing reads it")
        for user in node.users:
            if user.op == "output":
                return Refusal("it is an output of the network")
            if user.all_input_nodes.count(node) != 1 or g.data_input(user) is not node:
                return Refusal(f"{g.layer_name(user)} reads it as something else than its input")
            answer = self._ask("forward", user, here)
            if isinstance(answer, Refusal):
                return answer
            rule, move = answer
            price += self._copies(user, move)
            rest: tuple[Step, ...] = ()
            if user in self.pending:
                # composed: only what the composition costs more than the affine that was there
                assert move.after is not None
                price -= cost.lowered(self.pending[user].affine, g.value(user))
                price += cost.lowered(move.after.affine, g.value(user))
            elif move.after is not None:
                stay = cost.lowered(move.after.affine, g.value(user))
                further = self._forward(user, move.after)
                if not isinstance(further, Refusal) and further[1] < stay:
                    rest, stay = further
                price += stay
            steps.append(Step(user, rule, move, rest))
        return tuple(steps), price

    def _copies(self, node: fx.Node, move: Move) -> float:
        """The cost of weights that other calls read too, and that are therefore copied."""
        arguments = g.arguments(node)
        shared = [
            arguments[name]
            for name in move.weights
            if isinstance(arguments[name], fx.Node) and len(arguments[name].users) > 1
        ]
        return sum(cost.copied_weight(g.value(weight)) for weight in shared)
