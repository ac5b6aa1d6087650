"""What a fold rule is.

A rule knows one kind of operator and one direction. It is asked with an affine that is pending on the
operator's output (backward) or on its input (forward), and answers with a :class:`Move` or a
:class:`Refusal`. It computes in float64 and changes nothing: only the engine edits the graph.

    backward:   A(op(x, y))     =  move.after( op'( move.before[x](x), move.before[y](y) ) )
    forward:    op(A(x), y)     =  move.after( op'( x, move.before[y](y) ) )
    merge:      op(f(x), g(x))  =  f'(x),  op(f(x))  =  f'(x),  op(A(x), B(x))  =  move.after(x)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from torch import fx, nn

from bnfold import graph as g
from bnfold.affine import Affine, Array
from bnfold.fold.pending import Pending


@dataclass(frozen=True)
class Refusal:
    """Why a rule does not apply, as a clause: "its input is padded with zeros"."""

    reason: str


@dataclass(frozen=True)
class Move:
    """What a rule proposes.

    Attributes:
        weights: new float64 values of the operator's arguments, by their schema names; ``params.0`` is the
            first of a list.
        after: what is pending on the operator's output afterwards; None for nothing.
        before: what is pending afterwards on the operator's inputs, by the input.
        becomes: another operator instead, called with the data input and ``weights``; None for the same.
        host: merges only: the call that takes the place of the operator, with ``weights`` of its own; one
            that stands for a pending affine becomes ``after``.
        settings: new values of the operator's arguments that are no tensors: what is padded with.
    """

    weights: Mapping[str, Array] = field(default_factory=dict)
    after: Pending | None = None
    before: Mapping[fx.Node, Pending] = field(default_factory=dict)
    becomes: Any = None
    host: fx.Node | None = None
    settings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Operator:
    """One call in the graph, as a rule sees it.

    Attributes:
        node: the call.
        arguments: by schema name, defaults filled in; tensors are nodes.
        value: float64 value of a tensor that does not depend on the network's input, or None.
        pending: every affine that is pending in the graph, by the node that stands for it.
        edge: forward moves: the input that the affine is pending on.
    """

    node: fx.Node
    arguments: Mapping[str, Any]
    value: Callable[[fx.Node], Array | None]
    pending: Mapping[fx.Node, Pending] = field(default_factory=dict)
    edge: fx.Node | None = None

    def constant(self, name: str) -> Array | None:
        """The float64 value of an argument; None where it depends on the network's input, or is no tensor."""
        argument = self.arguments[name]
        return self.value(argument) if isinstance(argument, fx.Node) else None

    @property
    def data(self) -> fx.Node:
        """The data input: the first argument."""
        return g.data_input(self.node)

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """The data input's shape; None for a symbolic axis."""
        return sizes(self.data)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        return sizes(self.node)


def sizes(node: fx.Node) -> tuple[int | None, ...]:
    """A value's shape; None for a symbolic axis."""
    return tuple(size if isinstance(size, int) else None for size in g.value(node).shape)


@dataclass(frozen=True)
class Case:
    """An example that the contract test runs against the float64 oracle.

    Attributes:
        name: says what is special.
        build: makes the module; its statistics are drawn by the test, with gammas of both signs.
        shape: of the input.
        statuses: what becomes of each BatchNorm, in execution order.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    statuses: tuple[str, ...]


Answer = Move | Refusal | tuple[Move, ...]


class Rule:
    """Base of the rules. A module in this folder that defines a subclass adds a rule: nothing to register."""

    name: ClassVar[str]
    algebra: ClassVar[str]
    direction: ClassVar[Literal["backward", "forward", "merge"]]
    operators: ClassVar[frozenset[Any]]
    any_input: ClassVar[bool] = False  # forward: also asked where the affine is not on the first argument
    late: ClassVar[bool] = False  # asked only once nothing else moves any more
    rounds_more: ClassVar[bool] = False  # what it makes of large shifts cancels later, with their rounding

    def match(self, operator: Operator, pending: Pending) -> Answer:
        """The move for this operator, several to choose from, or why there is none.

        A merge is asked at every one of its operators, with an affine that does nothing.
        """
        raise NotImplementedError

    def cases(self) -> list[Case]:
        """Examples: what the rule must fold, and what it must leave alone."""
        raise NotImplementedError


def bias_or_zeros(operator: Operator, channels: int) -> Array | None:
    """The bias, zeros for an operator without one, None for one that depends on the input."""
    if operator.arguments["bias"] is None:
        return np.zeros(channels)
    return operator.constant("bias")


def left_behind(affine: Affine, axis: int) -> Pending | None:
    """The affine as pending, or None when it does nothing."""
    return None if affine.is_identity else Pending(affine, axis)


__all__ = [
    "DATA_DEPENDENT", "Answer", "Case", "Move", "Operator", "Pending", "Refusal", "Rule", "bias_or_zeros",
    "left_behind", "sizes",
]  # fmt: skip

DATA_DEPENDENT = Refusal("its weight or bias is computed from the input")
