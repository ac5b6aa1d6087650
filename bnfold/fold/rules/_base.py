"""What a fold rule is.

A rule knows one kind of operator and one direction. It is asked with an affine that is pending on the
operator's output (backward) or on its input (forward), and answers with a :class:`Move` or a
:class:`Refusal`. It computes in float64 and changes nothing: only the engine edits the graph.

    backward:   A(op(x))  =  move.after( op'( move.before(x) ) )
    forward:    op(A(x))  =  move.after( op'(x) )
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import fx, nn

from bnfold import graph as g
from bnfold.affine import Affine, Array


@dataclass(frozen=True)
class Pending:
    """An affine that waits on an edge, with the axis of its channels."""

    affine: Affine
    axis: int


@dataclass(frozen=True)
class Refusal:
    """Why a rule does not apply, as a clause: "its input is padded with zeros"."""

    reason: str


@dataclass(frozen=True)
class Move:
    """What a rule proposes.

    Attributes:
        weights: new float64 values of the operator's arguments, by their schema names.
        after: what is pending on the operator's output afterwards; None for nothing.
        before: backward moves only: what is pending on its input afterwards; None for nothing.
    """

    weights: Mapping[str, Array] = field(default_factory=dict)
    after: Pending | None = None
    before: Pending | None = None


@dataclass(frozen=True)
class Operator:
    """One call in the graph, as a rule sees it.

    Attributes:
        node: the call.
        arguments: by schema name, defaults filled in; tensors are nodes.
        constant: float64 value of an argument whose tensor does not depend on the network's input, or None.
        pending: the affine that the call stands for, where it is one that is pending itself.
    """

    node: fx.Node
    arguments: Mapping[str, Any]
    constant: Callable[[str], Array | None]
    pending: Pending | None = None

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """The data input's shape; None for a symbolic axis."""
        return _sizes(g.value(g.data_input(self.node)).shape)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        return _sizes(g.value(self.node).shape)


def _sizes(shape: torch.Size) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)


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


class Rule:
    """Base of the rules. A module in this folder that defines a subclass adds a rule: nothing to register."""

    name: ClassVar[str]
    algebra: ClassVar[str]
    direction: ClassVar[Literal["backward", "forward"]]
    operators: ClassVar[frozenset[Any]]

    def match(self, operator: Operator, pending: Pending) -> Move | Refusal:
        """The move for this operator, or why there is none."""
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


DATA_DEPENDENT = Refusal("its weight or bias is computed from the input")
