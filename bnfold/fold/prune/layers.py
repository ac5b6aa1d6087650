"""Convolutions and linear layers: rows of the weight make output channels, columns read input channels.

    W * x + b  =  W[rows, kept] * x[kept]  +  (b + W[rows, gone] * t)[rows]        x[gone] = t

A column that only rows of zeros read goes with its channel. A constant t != 0 joins the bias where no window
touches zero padding. Where one does, the border reads 0 and not t: then one constant channel stays and stands
for all of them, W[:, kept one] + W[:, gone] t / t[kept one], which is exact at the border too.

In a grouped layer all groups are of one size; a group goes when nothing of it is left on either side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bnfold import graph as g
from bnfold.affine import Array
from bnfold.fold.body import Body
from bnfold.fold.prune._base import Channels, Keep, Kind, Known, Mask
from bnfold.fold.rules import Operator, _conv

_SMALLEST = 1e-3  # of a constant that stands for others, against the largest of them


@dataclass(frozen=True)
class _Blocks:
    """A layer's weight as (groups, out / groups, in / groups, *kernel), and its input's constants.

    Attributes:
        weight, bias: float64; the bias is None where there is none.
        constant: (groups, in / groups); NaN where a channel is not constant.
        bordered: whether some positions read zeros beside the input.
    """

    weight: Array
    bias: Array | None
    constant: Array
    bordered: bool

    @property
    def reads(self) -> Mask:
        """(groups, out, in): whether a row has anything but zeros for a channel."""
        kernel = tuple(range(3, self.weight.ndim))
        return np.asarray((self.weight != 0).any(axis=kernel), dtype=np.bool_)

    @property
    def known(self) -> Mask:
        return np.asarray(~np.isnan(self.constant), dtype=np.bool_)

    @property
    def not_zero(self) -> Mask:
        """Channels that are constant and not 0."""
        return np.asarray(self.known & (self.constant != 0))


class Layers(Kind):
    operators = _conv.PLAIN | _conv.TRANSPOSED | frozenset({torch.ops.aten.linear.default})

    def __init__(self, shared: frozenset[str]) -> None:
        """``shared``: the weights that several calls read, by `weight_of`."""
        self._shared = shared

    def channels(self, operator: Operator, known: Known) -> Channels | None:
        blocks = _blocks(operator, known)
        if blocks is None:
            return None
        reads = blocks.reads
        alive = (reads & ~blocks.known[:, None]).any(axis=2)
        if blocks.bordered:
            alive |= (reads & blocks.not_zero[:, None]).any(axis=2)
        constant = np.where(alive, np.nan, _response(blocks, blocks.known)).reshape(-1)
        if blocks.bias is not None:
            constant = constant + blocks.bias
        return Channels(_output_axis(operator), constant)

    def require(self, operator: Operator, known: Known, keep: Keep) -> None:
        blocks = _blocks(operator, known)
        assert blocks is not None
        groups = len(blocks.constant)
        kept_out = keep[operator.node].reshape(groups, -1)
        source = _source(operator, known)
        kept_in: Mask = np.ones(blocks.constant.shape, dtype=bool)
        if source is not None:
            kept_in = keep[operator.data].reshape(groups, -1)
            needed = (blocks.reads & kept_out[:, :, None]).any(axis=1)
            kept_in |= needed & ~blocks.known
            if blocks.bordered:
                self._stand_ins(operator, blocks, needed & blocks.not_zero, kept_in)
        elif operator.data in keep:
            keep[operator.data][:] = True  # its channels are not those that the layer reads
        if groups > 1:
            _level(kept_in, kept_out)

    def _stand_ins(self, operator: Operator, blocks: _Blocks, needed: Mask, kept: Mask) -> None:
        """Where constants meet the border: keep one of each group for all of them."""
        if weight_of(operator) in self._shared:
            kept |= needed  # its columns are other calls' too
            return
        size = np.abs(np.where(blocks.not_zero, blocks.constant, 0.0))
        for group in np.flatnonzero((needed & ~kept).any(axis=1)):
            largest = np.where(needed[group], size[group], 0.0)
            if np.where(kept[group], size[group], 0.0).max() < _SMALLEST * largest.max():
                kept[group, largest.argmax()] = True

    def cut(self, operator: Operator, known: Known, keep: Keep, body: Body) -> None:
        blocks = _blocks(operator, known)
        assert blocks is not None
        groups = len(blocks.constant)
        kept_out = keep[operator.node].reshape(groups, -1)
        kept_in: Mask = np.ones(blocks.constant.shape, dtype=bool)
        if _source(operator, known) is not None:
            kept_in = keep[operator.data].reshape(groups, -1)
        if kept_in.all() and kept_out.all():
            return
        gone = blocks.not_zero & ~kept_in & (blocks.reads & kept_out[:, :, None]).any(axis=1)
        weight, bias = blocks.weight, blocks.bias
        if gone.any() and blocks.bordered:
            weight = _with_stand_ins(blocks, gone, kept_in)
        elif gone.any():
            bias = _response(blocks, gone).reshape(-1) + (0.0 if bias is None else bias)
        alive = kept_in.any(axis=1)
        weight = np.stack([weight[i][kept_out[i]][:, kept_in[i]] for i in np.flatnonzero(alive)])
        weights = {"weight": _as_stored(operator, weight)}
        if bias is not None:
            weights["bias"] = bias[kept_out.reshape(-1)]
        body.set_weights(operator.node, weights)
        if not alive.all():
            g.set_argument(operator.node, "groups", int(alive.sum()))


def weight_of(operator: Operator) -> str:
    """What tells calls of one weight from calls of another."""
    weight = operator.arguments["weight"]
    return str(weight.target if weight.op == "get_attr" else weight.name)


def _output_axis(operator: Operator) -> int:
    is_linear = operator.node.target is torch.ops.aten.linear.default
    return len(operator.output_shape) - 1 if is_linear else 1


def _source(operator: Operator, known: Known) -> Channels | None:
    """The channels that the layer reads, where they can be cut."""
    found = known.get(operator.data)
    return found if found is not None and found.axis == _output_axis(operator) else None


def _blocks(operator: Operator, known: Known) -> _Blocks | None:
    """The layer in blocks; None where its weights depend on the input or its input has no batch."""
    weight = operator.constant("weight")
    bias = None if operator.arguments["bias"] is None else operator.constant("bias")
    if weight is None or (bias is None and operator.arguments["bias"] is not None) or weight.ndim < 2:
        return None
    target, groups, bordered = operator.node.target, operator.arguments.get("groups", 1), False
    if target is torch.ops.aten.linear.default:
        blocks = weight[None]
    elif not _conv.is_batched(operator, weight):
        return None
    elif target in _conv.PLAIN:
        blocks = weight.reshape(groups, -1, *weight.shape[1:])
        bordered = _conv.is_padded(operator)
    else:
        blocks = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
        bordered = True
    source = _source(operator, known)
    size = blocks.shape[0] * blocks.shape[2]
    constant = np.full(size, np.nan) if source is None else source.constant
    return _Blocks(blocks, bias, constant.reshape(groups, -1), bordered)


def _response(blocks: _Blocks, channels: Mask) -> Array:
    """(groups, out): what constant channels add to each row where no border is near."""
    values = np.where(channels, blocks.constant, 0.0)
    summed = blocks.weight.sum(axis=tuple(range(3, blocks.weight.ndim)))
    response: Array = np.einsum("goi,gi->go", summed, values)
    return response


def _with_stand_ins(blocks: _Blocks, gone: Mask, kept: Mask) -> Array:
    """The weight with the columns of constants that go added to that of the largest one that stays."""
    weight = blocks.weight.copy()
    size = np.where(kept & blocks.not_zero, np.abs(blocks.constant), 0.0)
    for group in np.flatnonzero(gone.any(axis=1)):
        one = size[group].argmax()
        share = blocks.constant[group, gone[group]] / blocks.constant[group, one]
        columns = weight[group][:, gone[group]]
        weight[group][:, one] += np.einsum("oi...,i->o...", columns, share)
    return weight


def _level(kept_in: Mask, kept_out: Mask) -> None:
    """Keep more until all groups are of one size, but for those of which nothing is left."""
    for one, other in ((kept_in, kept_out), (kept_out, kept_in)):
        one[~one.any(axis=1) & other.any(axis=1), 0] = True
    for kept in (kept_in, kept_out):
        most = kept.sum(axis=1).max(initial=0)
        for group in np.flatnonzero(kept.any(axis=1)):
            missing = most - kept[group].sum()
            kept[group, np.flatnonzero(~kept[group])[:missing]] = True


def _as_stored(operator: Operator, blocks: Array) -> Array:
    """Blocks in the layout of the operator's own weight."""
    if operator.node.target in _conv.TRANSPOSED:
        blocks = blocks.swapaxes(1, 2)
    return blocks.reshape(-1, *blocks.shape[2:])
