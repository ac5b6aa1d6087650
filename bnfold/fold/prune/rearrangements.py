"""Operators that only move values: which channel goes where is found by moving numbers.

    P'(x[kept])  =  P(x)[kept']

The sizes and slices that an operator names are rewritten for the channels that stay, and the rewritten
operator is run on numbered positions: what does not give the same numbers is not cut.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from bnfold import graph as g
from bnfold.fold.body import Body
from bnfold.fold.prune._base import Channels, Keep, Kind, Known, Mask
from bnfold.fold.rules import Operator, _rearrange

aten = torch.ops.aten

_SIZES = frozenset(
    {aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.expand.default}
    | {aten.broadcast_to.default}
)

Pairs = NDArray[np.int64]


class Rearrangements(Kind):
    operators = _rearrange.OPERATORS - {aten.select.int, aten.index_select.default, aten.index.Tensor}

    def channels(self, operator: Operator, known: Known) -> Channels | None:
        source = known.get(operator.data)
        found = None if source is None else _pairs(operator, source.axis)
        if source is None or found is None:
            return None
        axis, pairs = found
        size = g.shape(operator.node)[axis]
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        known_ones, values = source.known[pairs[:, 0]], source.constant[pairs[:, 0]]
        np.minimum.at(low, pairs[:, 1], np.where(known_ones, values, -np.inf))
        np.maximum.at(high, pairs[:, 1], np.where(known_ones, values, np.inf))
        return Channels(axis, np.where(low == high, low, np.nan))

    def require(self, operator: Operator, known: Known, keep: Keep) -> None:
        source, result = keep[operator.data], keep[operator.node]
        found = _pairs(operator, known[operator.data].axis)
        assert found is not None
        _spread(found[1], source, result)
        if result.all() and source[found[1][:, 0]].all():
            return  # at most channels that are sliced off anyway
        if _rewritten(operator, known, keep) is None:
            source[:] = True
            result[:] = True

    def cut(self, operator: Operator, known: Known, keep: Keep, body: Body) -> None:
        args = _rewritten(operator, known, keep)
        assert args is not None
        operator.node.args = args


def _pairs(operator: Operator, axis: int) -> tuple[int, Pairs] | None:
    """The output's axis of the channels, and every (input channel, output channel) that share a position."""
    there, sizes = _rearrange.forward(operator, axis), operator.output_shape
    if there is not None and len(set(there[1])) == 1:  # a single channel: on any axis
        alone = len(sizes) == len(operator.input_shape) and sizes[axis] == 1
        return (axis, np.array([[there[1][0], 0]])) if alone else None
    if there is not None:
        return there[0], np.stack([there[1], np.arange(len(there[1]))], axis=1)
    for candidate, size in enumerate(sizes):
        if size is None or size == 1:
            continue
        back = _rearrange.backward(operator, candidate)
        if back is not None and back[0] == axis and len(set(back[1]) - {-1}) == size:
            read = np.flatnonzero(back[1] >= 0)
            return candidate, np.stack([read, back[1][read]], axis=1)
    return None


def _spread(pairs: Pairs, source: Mask, result: Mask) -> None:
    """Keep together what shares a position."""
    while True:
        together = source[pairs[:, 0]] | result[pairs[:, 1]]
        if (together == source[pairs[:, 0]]).all() and (together == result[pairs[:, 1]]).all():
            return
        np.logical_or.at(source, pairs[:, 0], together)
        np.logical_or.at(result, pairs[:, 1], together)


def _rewritten(operator: Operator, known: Known, keep: Keep) -> tuple[Any, ...] | None:
    """The arguments for the channels that stay; None where no arguments do it."""
    node, here, there = operator.node, known[operator.data].axis, known[operator.node].axis
    source, result = keep[operator.data], keep[operator.node]
    args = _arguments(operator, here, there, source, result)
    numbers = np.arange(math.prod(g.shape(operator.data)), dtype=np.float64).reshape(g.shape(operator.data))
    whole = _rearrange.run(operator, numbers)
    assert whole is not None
    wanted = np.compress(result, whole, there)
    try:
        made = _rearrange.run(operator, np.compress(source, numbers, here), args)
    except (RuntimeError, IndexError):  # sizes that fit the channels no more
        return None
    if made is None or made.shape != wanted.shape or not (made == wanted).all():
        return None
    return args if args is not None else node.args


def _arguments(
    operator: Operator, here: int, there: int, source: Mask, result: Mask
) -> tuple[Any, ...] | None:
    """The call's positional arguments with sizes and slices for the channels that stay; None: its own."""
    node, call = operator.node, operator.arguments
    if node.target in _SIZES:
        sizes = list(call["shape" if "shape" in call else "size"])
        if not isinstance(sizes[there], fx.Node) and sizes[there] != -1:
            sizes[there] = int(result.sum())
        return (operator.data, sizes)
    if node.target is aten.unflatten.int:
        dim, sizes = call["dim"] % len(operator.input_shape), list(call["sizes"])
        if 0 <= there - dim < len(sizes) and sizes[there - dim] != -1:
            sizes[there - dim] = int(result.sum())
        return (operator.data, call["dim"], sizes)
    if node.target not in (aten.slice.Tensor, aten.narrow.default):
        return None
    if call["dim"] % len(operator.input_shape) != here:
        return None
    first = call["start"] or 0
    first = int(source[:first].sum())  # Python's rule for a negative start, too
    if node.target is aten.narrow.default:
        return (operator.data, call["dim"], first, int(result.sum()))
    return (operator.data, call["dim"], first, first + int(result.sum()), call["step"])
