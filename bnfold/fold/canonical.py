"""One form for one thing, so that one rule serves all.

A multiplication by, or an addition of, a constant per channel becomes an affine like any BatchNorm; the
pieces of a split become slices, and a split again at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import fx

from bnfold import graph as g
from bnfold.affine import Affine, Array
from bnfold.fold.constants import Constants
from bnfold.fold.pending import Origin, Pending

aten = torch.ops.aten


_ALIASES = {
    aten.multiply.Tensor: aten.mul.Tensor,
    aten.multiply.Scalar: aten.mul.Scalar,
    aten.divide.Tensor: aten.div.Tensor,
    aten.divide.Scalar: aten.div.Scalar,
    aten.true_divide.Tensor: aten.div.Tensor,
    aten.true_divide.Scalar: aten.div.Scalar,
    aten.subtract.Tensor: aten.sub.Tensor,
    aten.subtract.Scalar: aten.sub.Scalar,
    aten.negative.default: aten.neg.default,
    aten.absolute.default: aten.abs.default,
    aten.clip.default: aten.clamp.default,
    aten.clip.Tensor: aten.clamp.Tensor,
    aten.max.other: aten.maximum.default,
    aten.min.other: aten.minimum.default,
}


def use_one_name(graph: fx.Graph) -> None:
    """torch.multiply is torch.mul: one name for operators that have several, with the same arguments."""
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = _ALIASES.get(node.target, node.target)


_LIKE = {
    aten.view_as.default: aten.reshape.default,
    aten.reshape_as.default: aten.reshape.default,
    aten.expand_as.default: aten.expand.default,
}


def use_shapes(graph: fx.Graph) -> None:
    """Write ``x.reshape_as(y)`` as a reshape to y's sizes, ``expand_as`` alike: y's values are not read."""
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _LIKE:
            continue
        sizes = [size if isinstance(size, int) else -1 for size in g.value(node).shape]
        if node.target is aten.expand_as.default:
            shape = g.value(g.data_input(node)).shape
            own = (*(1,) * (len(sizes) - len(shape)), *shape)
            if any(size == -1 and isinstance(mine, int) for mine, size in zip(own, sizes, strict=True)):
                continue  # -1 keeps x's own size
        elif sizes.count(-1) > 1:
            continue
        node.target = _LIKE[cast(Any, node.target)]
        node.args, node.kwargs = (node.args[0], sizes), {}


_ADAPTIVE_MAXIMA = {
    aten.adaptive_max_pool1d.default: 1,
    aten.adaptive_max_pool2d.default: 2,
    aten.adaptive_max_pool3d.default: 3,
}
_WITH_INDICES = {
    aten.max_pool1d_with_indices.default: aten.max_pool1d.default,
    aten.max_pool2d_with_indices.default: aten.max_pool2d.default,
    aten.max_pool3d_with_indices.default: aten.max_pool3d.default,
}


def use_maxima(graph: fx.Graph) -> None:
    """Write a max pooling whose indices nobody reads as one without.

    An adaptive one to a single position is a maximum; one to equal windows is a max pooling.
    """
    for node in list(graph.nodes):
        without = _without_indices(node) if node.op == "call_function" else None
        if without is None or not all(user.target is g.getitem and user.args[1] == 0 for user in node.users):
            continue
        target, *rest = without
        with graph.inserting_before(node):
            maximum = graph.call_function(target, (g.data_input(node), *rest))
        maximum.meta = {**node.meta, "val": node.meta["val"][0]}
        for user in list(node.users):
            maximum.meta["reference"] = user.meta["reference"]
            user.replace_all_uses_with(maximum)
            graph.erase_node(user)
        graph.erase_node(node)


def _without_indices(node: fx.Node) -> tuple[Any, ...] | None:
    """The operator that gives a max pooling's values alone, and its arguments behind the data."""
    if node.target in _WITH_INDICES:
        arguments = g.arguments(node)
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        return _WITH_INDICES[cast(Any, node.target)], *(arguments[name] for name in names)
    spatial = _ADAPTIVE_MAXIMA.get(cast(Any, node.target))
    if spatial is None:
        return None
    wanted = g.arguments(node)["output_size"]
    if set(wanted) == {1}:
        return aten.amax.default, list(range(-spatial, 0)), True
    sizes = g.value(g.data_input(node)).shape[-spatial:]
    if any(not isinstance(size, int) or size % to for size, to in zip(sizes, wanted, strict=True)):
        return None
    window = [size // to for size, to in zip(sizes, wanted, strict=True)]
    pools = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
    return pools[spatial - 1], window, window


# --- the network's own multiplications and additions -------------------------------------------------------

_SIGNS = {
    aten.add.Tensor: 1.0,
    aten.add.Scalar: 1.0,
    aten.sub.Tensor: -1.0,
    aten.sub.Scalar: -1.0,
    aten.rsub.Tensor: -1.0,
    aten.rsub.Scalar: -1.0,
}
_REVERSED = {aten.rsub.Tensor, aten.rsub.Scalar}
_ONE = {aten.neg.default}
_PRODUCTS = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar}


def frozen_instance_norms(graph: fx.Graph, constants: Constants) -> Iterator[tuple[fx.Node, Pending]]:
    """InstanceNorm calls that use running statistics: in eval mode the same affine as a BatchNorm's.

    One whose statistics are not finite, or no constants, is left as it is.
    """
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not aten.instance_norm.default:
            continue
        arguments = g.arguments(node)
        if arguments["use_input_stats"]:
            continue
        given = [arguments[key] for key in ("running_mean", "running_var", "weight", "bias")]
        mean, variance, weight, bias = (None if one is None else constants.value(one) for one in given)
        computed = any(one is not None and not constants.is_constant(one) for one in given)
        if mean is None or variance is None or computed or not (variance + arguments["eps"] > 0).all():
            continue
        affine = Affine.from_batch_norm(mean, variance, arguments["eps"], weight, bias)
        if np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all():
            yield node, Pending(affine, 1)


def network_affines(graph: fx.Graph, constants: Constants) -> Iterator[tuple[fx.Node, Pending]]:
    """The calls that are an affine per channel of their input: layer scale, input normalisation, a bias."""
    for node in list(graph.nodes):
        found = own_affine(node, constants)
        if found is not None:
            yield node, found


def own_affine(node: fx.Node, constants: Constants, *, finite: bool = True) -> Pending | None:
    """A multiplication by, or an addition of, a constant per channel; None for anything else.

    With ``finite`` the constant must be.
    """
    if node.op != "call_function" or node.target not in (_SIGNS.keys() | _PRODUCTS | _ONE):
        return None
    x, other = node.args[0], -1.0 if node.target in _ONE else node.args[1]
    swapped = isinstance(x, fx.Node) and constants.is_constant(x)
    if swapped:
        x, other = other, x
    if not isinstance(x, fx.Node) or constants.is_constant(x):
        return None
    here, there = g.value(node), g.value(x)
    if not here.is_floating_point() or here.dtype != there.dtype or here.ndim < 2:
        return None
    if g.shape(node) != g.shape(x):
        return None
    if isinstance(other, fx.Node):
        if not g.value(other).is_floating_point():
            return None
        number = constants.value(other)
    else:
        number = np.asarray(other, dtype=np.float64) if isinstance(other, int | float) else None
    if number is None or (finite and not np.isfinite(number).all()):
        return None
    along = _along_one_axis(number, g.shape(node))
    if along is None:
        return None
    axis, values = along
    affine = _as_affine(node, values, swapped != (node.target in _REVERSED))
    if affine is None:
        return None
    return Pending(affine, axis, Origin(node.target, node.args, node.kwargs, x))


def _along_one_axis(number: Array, shape: tuple[int, ...]) -> tuple[int, Array] | None:
    """The axis that a broadcast constant varies over, and its values there; a scalar takes axis 1."""
    padded = number.reshape((1,) * (len(shape) - number.ndim) + number.shape)
    wide = [axis for axis, size in enumerate(padded.shape) if size != 1]
    if len(wide) > 1:
        return None
    axis = wide[0] if wide else 1
    return axis, np.broadcast_to(padded.reshape(-1), (shape[axis],)).astype(np.float64)


def _as_affine(node: fx.Node, values: Array, swapped: bool) -> Affine | None:
    zeros, ones = np.zeros_like(values), np.ones_like(values)
    if node.target in _PRODUCTS | _ONE:
        divides = node.target in (aten.div.Tensor, aten.div.Scalar)
        if divides and (swapped or (values == 0).any()):
            return None
        return Affine(1.0 / values if divides else values, zeros)
    alpha = g.arguments(node).get("alpha", 1)
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        return None
    sign = _SIGNS[cast(Any, node.target)]
    if swapped:  # constant + alpha * (+-x)
        return Affine(ones * sign * alpha, values)
    return Affine(ones, sign * alpha * values)


# --- splits ------------------------------------------------------------------------------------------------


@dataclass
class _Split:
    """One split: the call, the axis and the sizes, and the slices that stand for its pieces."""

    target: Any
    rest: tuple[Any, ...]
    kwargs: dict[str, Any]
    meta: dict[str, Any]
    dim: int
    sizes: list[int]
    pieces: dict[int, fx.Node] = field(default_factory=dict)

    def now(self, total: int) -> tuple[list[int], dict[int, int]]:
        """The sizes to split ``total`` into, which pruning may have made smaller, and each piece's place.

        A piece that nobody reads any more may be gone.
        """
        bounds = {
            number: (cast(int, piece.args[2]), cast(int, piece.args[3]))
            for number, piece in sorted(self.pieces.items())
            if piece.users
        }
        whole = all(end - start == self.sizes[number] for number, (start, end) in bounds.items())
        if whole and total == sum(self.sizes):
            return self.sizes, {number: number for number in bounds}
        sizes: list[int] = []
        places = {}
        for number, (start, end) in bounds.items():
            if start > sum(sizes):
                sizes.append(start - sum(sizes))
            places[number] = len(sizes)
            sizes.append(end - start)
        return [*sizes, total - sum(sizes)] if total > sum(sizes) else sizes, places


class Splits:
    """Writes every ``split``, ``chunk`` and ``tensor_split`` as slices, for as long as the folding takes."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._splits: list[_Split] = []
        for node in list(graph.nodes):
            pieces = g.pieces(node)
            if pieces is not None:
                self._write_as_slices(node, *pieces)

    def _write_as_slices(self, node: fx.Node, dim: int, sizes: list[int]) -> None:
        source = g.data_input(node)
        readers = list(node.users)
        if not all(user.target is g.getitem and isinstance(user.args[1], int) for user in readers):
            return
        split = _Split(node.target, node.args[1:], node.kwargs, dict(node.meta), dim, sizes)
        for reader in readers:
            number = cast(int, reader.args[1]) % len(sizes)
            start = sum(sizes[:number])
            with self._graph.inserting_before(reader):
                piece = self._graph.call_function(
                    aten.slice.Tensor, (source, dim, start, start + sizes[number])
                )
            piece.meta = dict(reader.meta)
            split.pieces[number] = piece
            reader.replace_all_uses_with(piece)
            self._graph.erase_node(reader)
        self._graph.erase_node(node)
        self._splits.append(split)

    def restore(self) -> None:
        """Make one split of slices again where they still read one value."""
        for split in self._splits:
            pieces = [piece for piece in split.pieces.values() if piece.users]
            sources = {piece.args[0] for piece in pieces}
            if len(sources) != 1:
                continue
            (source,) = sources
            assert isinstance(source, fx.Node)
            sizes, places = split.now(int(g.value(source).shape[split.dim]))
            target, args, kwargs = split.target, split.rest, split.kwargs
            if sizes != split.sizes:
                target, args, kwargs = aten.split_with_sizes.default, (sizes, split.dim), {}
            first = next(node for node in self._graph.nodes if node in pieces)
            with self._graph.inserting_before(first):
                whole = self._graph.call_function(target, (source, *args), kwargs)
            whole.meta = {**split.meta, "reference": None}
            whole.meta["sites"] = frozenset[int]().union(*(piece.meta["sites"] for piece in pieces))
            for number, piece in split.pieces.items():
                if piece.users:
                    with self._graph.inserting_after(whole):
                        item = self._graph.call_function(g.getitem, (whole, places[number]))
                    item.meta = dict(piece.meta)
                    piece.replace_all_uses_with(item)
                    self._graph.erase_node(piece)
