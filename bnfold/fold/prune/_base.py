"""What the analysis knows of a value's channels, and what each kind of operator answers.

A channel of a value can go when nobody reads it, or when it is a known constant that every reader can take
up. An operator is asked three things: what its output's channels are, which channels must stay so that it can
still be computed, and, once that is settled, to be rewritten for the channels that stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.fx.node import map_arg

from bnfold import graph as g
from bnfold.affine import Array
from bnfold.fold.body import Body
from bnfold.fold.rules import Operator

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Channels:
    """The channels of one value that could be cut.

    Attributes:
        axis: where they are.
        constant: per channel its constant; NaN where it is none.
    """

    axis: int
    constant: Array

    @property
    def known(self) -> Mask:
        """Which of them are constant."""
        return ~np.isnan(self.constant)


Known = Mapping[fx.Node, Channels]
Keep = dict[fx.Node, Mask]


class Kind:
    """How channels go through one kind of operator. Nothing but ``cut`` changes the graph."""

    operators: ClassVar[frozenset[Any]]

    def channels(self, operator: Operator, known: Known) -> Channels | None:
        """The output's channels, or None where none of them can be cut here."""
        raise NotImplementedError

    def require(self, operator: Operator, known: Known, keep: Keep) -> None:
        """Mark what must stay, on the inputs and on the output; marks are only ever added."""
        raise NotImplementedError

    def cut(self, operator: Operator, known: Known, keep: Keep, body: Body) -> None:
        """Rewrite the operator for the channels that stay; its inputs have been cut already."""


def data_inputs(operator: Operator) -> list[fx.Node]:
    """The tensors that depend on the network's input."""
    return [
        node
        for node in operator.node.all_input_nodes
        if isinstance(node.meta.get("val"), torch.Tensor) and operator.value(node) is None
    ]


def unknown(axis: int, size: int) -> Channels:
    """Channels of which none is constant."""
    return Channels(axis, np.full(size, np.nan))


def frame(channels: Channels, shape: tuple[int, ...], otherwise: float = 0.0) -> torch.Tensor:
    """A value whose known channels hold their constants, and all others one number."""
    along = [-1 if axis == channels.axis else 1 for axis in range(len(shape))]
    values = np.where(channels.known, channels.constant, otherwise).reshape(along)
    return torch.from_numpy(np.array(np.broadcast_to(values, shape)))


def evaluate(operator: Operator, values: Mapping[fx.Node, torch.Tensor]) -> torch.Tensor:
    """The operator's result in float64, with these values for its data inputs."""

    def look_up(node: fx.Node) -> Any:
        if node in values:
            return values[node]
        size = node.meta.get("val")
        if isinstance(size, torch.SymInt):
            return int(size.node.hint)
        constant = operator.value(node)
        assert constant is not None
        return torch.from_numpy(np.asarray(constant))

    args, kwargs = g.widen(map_arg((operator.node.args, operator.node.kwargs), look_up))
    with torch.no_grad():
        result: torch.Tensor = operator.node.target(*args, **kwargs)  # type: ignore[operator]
    return result


def uniform(value: torch.Tensor, axis: int, size: int) -> Array:
    """Per channel its value where it has one value everywhere; NaN elsewhere."""
    array = value.numpy()
    if array.shape[axis] not in (1, size):
        return np.full(size, np.nan)
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    low, high = rows.min(axis=1), rows.max(axis=1)
    return np.broadcast_to(np.where((low == high) & np.isfinite(low), low, np.nan), (size,)).astype(
        np.float64
    )
