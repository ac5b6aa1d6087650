"""Operators that only move values: where each channel of an affine goes, found by moving numbers.

The operator itself runs on a tensor that holds at every position the number of its channel. Whatever the
operator is, the affine can pass where the result depends on one axis only; the numbers along that axis
say which channel goes where. Nothing is derived from shapes, so equal sizes cannot be mixed up.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.fx.node import map_arg

from bnfold import graph as g
from bnfold.fold.rules._base import Operator

aten = torch.ops.aten

Channels = NDArray[np.int64]

OPERATORS = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.permute.default,
        aten.transpose.int,
        aten.swapaxes.default,
        aten.movedim.int,
        aten.movedim.intlist,
        aten.moveaxis.int,
        aten.moveaxis.intlist,
        aten.swapdims.default,
        aten.mT.default,
        aten.ravel.default,
        aten.t.default,
        aten.numpy_T.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.narrow.default,
        aten.index_select.default,
        aten.index.Tensor,
        aten.gather.default,
        aten.diagonal.default,
        aten.unfold.default,
        aten.expand.default,
        aten.broadcast_to.default,
        aten.repeat.default,
        aten.tile.default,
        aten.repeat_interleave.self_int,
        aten.flip.default,
        aten.fliplr.default,
        aten.flipud.default,
        aten.rot90.default,
        aten.roll.default,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        aten.channel_shuffle.default,
    }
)


def forward(operator: Operator, axis: int) -> tuple[int, Channels] | None:
    """The output's axis of the channels, and for each position on it the input's channel.

    None where one position of the output mixes with another's channel on every axis.
    """
    shape = g.shape(operator.data)
    moved = run(operator, _numbered(shape, axis))
    if moved is None:
        return None
    return _along_one_axis(moved, moved, operator.output_shape)


def values(operator: Operator, frame: NDArray[np.float64], axis: int) -> NDArray[np.float64] | None:
    """A frame (channels, *spatial) behind the operator, along one axis; None where it varies elsewhere."""
    moved = run(operator, np.broadcast_to(frame, g.shape(operator.data)))
    if moved is None:
        return None
    along = np.moveaxis(moved, axis, 0).reshape(moved.shape[axis], -1)
    return along[:, 0].copy() if (along == along[:, :1]).all() else None


def backward(operator: Operator, axis: int) -> tuple[int, Channels] | None:
    """The input's axis of the channels, and for each position on it the output's channel; -1: none."""
    shape, result = g.shape(operator.data), g.shape(operator.node)
    size = math.prod(shape)
    places = run(operator, np.arange(size, dtype=np.float64).reshape(shape))
    if places is None or places.shape != result or size == 0:
        return None
    channel = _numbered(result, axis).ravel()
    flat = places.astype(np.int64).ravel()
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, flat, channel)
    np.maximum.at(high, flat, channel)
    return _along_one_axis(low.reshape(shape), high.reshape(shape), operator.input_shape)


def _numbered(shape: tuple[int, ...], axis: int) -> NDArray[np.float64]:
    """A tensor that holds at every position its place on ``axis``."""
    along = [-1 if k == axis else 1 for k in range(len(shape))]
    return np.broadcast_to(np.arange(shape[axis], dtype=np.float64).reshape(along), shape)


def run(operator: Operator, tensor: NDArray[np.float64], args: Any = None) -> NDArray[np.float64] | None:
    """The operator's result on numbers in place of its input; None where another argument is data too.

    Args:
        args: the positional arguments, where they are not the call's own.
    """
    node = operator.node
    known = True

    def look_up(argument: fx.Node) -> Any:
        nonlocal known
        if argument is operator.data:
            return torch.from_numpy(np.array(tensor))
        size = argument.meta.get("val")
        if isinstance(size, torch.SymInt):
            return int(size.node.hint)
        value = operator.value(argument)
        if value is None:
            known = False
            return None
        return torch.from_numpy(value)

    args, kwargs = map_arg((node.args if args is None else args, node.kwargs), look_up)
    if not known:
        return None
    with torch.no_grad():
        result: torch.Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return result.numpy()


def _along_one_axis(
    low: NDArray[np.float64], high: NDArray[np.float64], sizes: tuple[int | None, ...]
) -> tuple[int, Channels] | None:
    """The axis that a tensor varies over, and its values there. ``low > high`` marks what is free."""
    best: tuple[int, Channels] | None = None
    for axis in range(low.ndim):
        if sizes[axis] is None:
            continue  # channels are never counted by a symbolic batch
        others = tuple(k for k in range(low.ndim) if k != axis)
        least, most = low.min(axis=others), high.max(axis=others)
        free = least > most
        if not (free | (least == most)).all():
            continue
        channels = np.where(free, -1, np.where(np.isfinite(least), least, -1)).astype(np.int64)
        if best is None or len(channels) > len(best[1]):
            best = axis, channels
    return best
