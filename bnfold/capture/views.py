"""Views that can be followed: which part of a tensor one shows, and the whole with that part exchanged.

A write to a part of a tensor, ``y[:, 0:2] = z``, is the whole put together again: the channels of ``z``, then
those of ``y`` behind them. It is written as slices and ``cat``, which folding and every exporter know.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import fx

from bnfold import graph as g

aten = torch.ops.aten

Make = Callable[..., fx.Node]  # an operator and its arguments -> the new node, with its fake tensor

_PERMUTING = {
    aten.permute.default,
    aten.transpose.int,
    aten.swapaxes.default,
    aten.swapdims.default,
    aten.movedim.int,
    aten.movedim.intlist,
    aten.moveaxis.int,
    aten.moveaxis.intlist,
    aten.t.default,
    aten.mT.default,
    aten.numpy_T.default,
}
# a view in every case: reshape and flatten, which may be copies, are not among them
_RESHAPING = {
    aten.view.default,
    aten.view_as.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unflatten.int,
}


class Look(Protocol):
    """How one tensor is seen in another."""

    def part(self, make: Make, whole: fx.Node) -> fx.Node:
        """What is seen of ``whole``."""

    def put(self, make: Make, whole: fx.Node, part: fx.Node) -> fx.Node:
        """``whole`` with ``part`` where it is seen."""


@dataclass(frozen=True)
class Cut:
    """Positions ``start`` to ``stop`` of an axis, every ``step``-th."""

    axis: int
    start: int
    stop: int
    step: int = 1

    def part(self, make: Make, whole: fx.Node) -> fx.Node:
        return make(aten.slice.Tensor, whole, self.axis, self.start, self.stop, self.step)

    def put(self, make: Make, whole: fx.Node, part: fx.Node) -> fx.Node:
        axis, start, step = self.axis, self.start, self.step
        size = g.value(whole).shape[axis]
        if start == 0 and self.stop == sys.maxsize and step == 1:
            return part
        if not isinstance(size, int):
            return make(aten.slice_scatter.default, whole, part, axis, start, self.stop, step)
        count = g.value(part).shape[axis]
        pieces = _range(make, whole, axis, 0, start)
        if step == 1:
            pieces += [part, *_range(make, whole, axis, start + count, size)]
        else:
            # one of the part, then those of the whole behind it, and so on: side by side along a new axis
            groups = min(count, (size - start) // step)
            end = start + groups * step
            if groups:
                rows = [make(aten.slice.Tensor, part, axis, 0, groups)]
                rows += [make(aten.slice.Tensor, whole, axis, start + i, end, step) for i in range(1, step)]
                apart = [make(aten.unsqueeze.default, row, axis + 1) for row in rows]
                stack = make(aten.cat.default, apart, axis + 1)
                pieces.append(make(aten.flatten.using_ints, stack, axis, axis + 1))
            last = _range(make, part, axis, groups, count)
            pieces += [*last, *_range(make, whole, axis, end + len(last), size)]
        return pieces[0] if len(pieces) == 1 else make(aten.cat.default, pieces, axis)


@dataclass(frozen=True)
class Pick:
    """One position of an axis, which is gone from the part."""

    axis: int
    position: Cut

    def part(self, make: Make, whole: fx.Node) -> fx.Node:
        return make(aten.select.int, whole, self.axis, self.position.start)

    def put(self, make: Make, whole: fx.Node, part: fx.Node) -> fx.Node:
        return self.position.put(make, whole, make(aten.unsqueeze.default, part, self.axis))


@dataclass(frozen=True)
class Permuted:
    """The axes in another order."""

    order: tuple[int, ...]

    def part(self, make: Make, whole: fx.Node) -> fx.Node:
        return make(aten.permute.default, whole, list(self.order))

    def put(self, make: Make, whole: fx.Node, part: fx.Node) -> fx.Node:
        return make(aten.permute.default, part, [self.order.index(axis) for axis in range(len(self.order))])


@dataclass(frozen=True)
class Reshaped:
    """The same elements in the same order, in another shape; -1 is the size of the batch."""

    shape: tuple[int, ...]
    whole: tuple[int, ...]

    def part(self, make: Make, whole: fx.Node) -> fx.Node:
        return make(aten.reshape.default, whole, list(self.shape))

    def put(self, make: Make, whole: fx.Node, part: fx.Node) -> fx.Node:
        return make(aten.reshape.default, part, list(self.whole))


def _range(make: Make, whole: fx.Node, axis: int, start: int, stop: int) -> list[fx.Node]:
    """Positions of an axis in as many pieces as it takes: a join's own, so that writes do not pile up."""
    if start >= stop:
        return []
    if whole.target is aten.cat.default and g.arguments(whole)["dim"] % g.value(whole).ndim == axis:
        return _pieces(make, whole, axis, start, stop)
    if (start, stop) == (0, g.value(whole).shape[axis]):
        return [whole]
    seen = look_of(whole) if whole.target is aten.slice.Tensor else None
    if seen is not None and isinstance(seen[1], Cut) and (seen[1].axis, seen[1].step) == (axis, 1):
        before = seen[1].start
        return _range(make, seen[0], axis, before + start, before + stop)
    return [make(aten.slice.Tensor, whole, axis, start, stop)]


def _pieces(make: Make, join: fx.Node, axis: int, start: int, stop: int) -> list[fx.Node]:
    found: list[fx.Node] = []
    begin = 0
    for piece in g.arguments(join)["tensors"]:
        if g.value(piece).ndim != g.value(join).ndim:
            continue  # an empty tensor without axes, as cat allows
        end = begin + g.value(piece).shape[axis]
        found += _range(make, piece, axis, max(start, begin) - begin, min(stop, end) - begin)
        begin = end
    return found


def look_of(node: fx.Node) -> tuple[fx.Node, Look] | None:
    """The tensor that ``node`` is a view of, and how it is seen there; None for what cannot be followed."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
        return None
    if node.target is g.getitem:
        several = cast(fx.Node, node.args[0])
        look = _piece(several, node.args[1])
        return None if look is None else (g.data_input(several), look)
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not isinstance(source.meta.get("val"), torch.Tensor):
        return None
    look = _look(node, source)
    return None if look is None else (source, look)


def _look(node: fx.Node, source: fx.Node) -> Look | None:
    arguments = g.arguments(node)
    if node.target is aten.slice.Tensor:
        return _cut(source, arguments["dim"], arguments["start"], arguments["end"], arguments["step"])
    if node.target is aten.narrow.default:
        start, length = arguments["start"], arguments["length"]
        stop = start + length if isinstance(start, int) and isinstance(length, int) else None
        return None if stop is None or start < 0 else _cut(source, arguments["dim"], start, stop, 1)
    if node.target is aten.select.int:
        return _pick(source, arguments["dim"], arguments["index"])
    if node.target in _PERMUTING:
        # the operator itself tells the order, on axes that can be told apart
        probe = torch.empty(tuple(range(g.value(source).ndim)), device="meta")
        return Permuted(tuple(cast(Any, node.target)(probe, *node.args[1:], **node.kwargs).shape))
    if node.target in _RESHAPING:
        shape, whole = _sizes(node), _sizes(source)
        return Reshaped(shape, whole) if shape is not None and whole is not None else None
    return None


def _piece(several: fx.Node, position: Any) -> Look | None:
    """A piece of a split as a slice."""
    if several.target is aten.unbind.int:
        return _pick(g.data_input(several), g.arguments(several)["dim"], position)
    pieces = g.pieces(several)
    if pieces is None:
        return None
    axis, sizes = pieces
    start = sum(sizes[:position])
    return _cut(g.data_input(several), axis, start, start + sizes[position], 1)


def _cut(source: fx.Node, axis: Any, start: Any, stop: Any, step: Any) -> Cut | None:
    bounds = 0 if start is None else start, sys.maxsize if stop is None else stop
    if not all(isinstance(number, int) for number in (axis, *bounds, step)):
        return None
    value = g.value(source)
    axis %= value.ndim
    size = value.shape[axis]
    if not isinstance(size, int):
        return Cut(axis, *bounds, step)
    start, stop, step = slice(*bounds, step).indices(size)
    if (start, stop, step) == (0, size, 1):
        stop = sys.maxsize
    return Cut(axis, start, max(start, stop), step)


def _pick(source: fx.Node, axis: Any, position: Any) -> Pick | None:
    value = g.value(source)
    if not isinstance(axis, int) or not isinstance(position, int):
        return None
    axis %= value.ndim
    size = value.shape[axis]
    if isinstance(size, int):
        position %= size
    cut = _cut(source, axis, position, position + 1 or None, 1)
    return None if cut is None else Pick(axis, cut)


def _sizes(node: fx.Node) -> tuple[int, ...] | None:
    """A shape to reshape to; None where more than one size is not fixed."""
    sizes = tuple(size if isinstance(size, int) else -1 for size in g.value(node).shape)
    return sizes if sizes.count(-1) <= 1 else None
