"""What the planner finds and the engine carries out: a way out for one pending affine, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx

from bnfold.affine import Affine
from bnfold.fold.cost import Price
from bnfold.fold.pending import Pending
from bnfold.fold.rules import Move


@dataclass(frozen=True)
class Step:
    """One move at one operator, and how it goes on from there.

    Attributes:
        forward: for each reader of the operator the next step of ``move.after``, or None where it waits on
            that edge; empty where it waits behind the operator.
        backward: by input of the operator, the next step of ``move.before``; an input that is missing here
            keeps it waiting on the edge.
        undone: backward steps at a producer that others read too: what gives them its value back.
    """

    node: fx.Node
    rule: str
    move: Move
    forward: Mapping[fx.Node, Step | None] = field(default_factory=dict)
    backward: Mapping[fx.Node, Step] = field(default_factory=dict)
    undone: Mapping[fx.Node, Undo] = field(default_factory=dict)

    def nodes(self) -> Iterator[fx.Node]:
        """Every operator of this step and of those that follow, and the readers that an undo waits before."""
        yield self.node
        for step in (*self.forward.values(), *self.backward.values()):
            if step is not None:
                yield from step.nodes()
        for reader, undo in self.undone.items():
            if undo.step is None:
                yield reader
            else:
                yield from undo.step.nodes()


@dataclass(frozen=True)
class Undo:
    """The inverse affine, on the edge to one reader: ``step`` goes on into it, or it waits there (None)."""

    pending: Pending
    step: Step | None


@dataclass(frozen=True)
class Plan:
    """A way out for one pending affine.

    Attributes:
        backward: the step at its producer; None for a forward plan.
        forward: for each reader a step, or None where it waits on that edge.
        stays: the part that stays at the pending node (forward plans only); None for nothing.
        leaves: the part that goes forward.
        price: of everything still to be lowered, of weights copied and of operators replaced.
    """

    backward: Step | None
    forward: Mapping[fx.Node, Step | None]
    stays: Affine | None
    leaves: Pending
    price: Price

    def consistent(self, node: fx.Node) -> bool:
        """Whether no operator is touched twice, nor ``node``, which stands for the affine itself: the second
        move would be computed from stale weights."""
        steps = [self.backward] if self.backward else [step for step in self.forward.values() if step]
        touched = Counter(operator for step in steps for operator in step.nodes())
        return max((touched + Counter([node])).values()) <= 1
