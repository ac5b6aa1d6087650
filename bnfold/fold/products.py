"""Products with a constant, however they are written, as linear layers and 1 x 1 convolutions.

    x @ W, addmm(b, x, W), inner(x, W)            linear(x, W.T, b)
    W @ x, einsum("ncl,kc->nkl", x, W)            conv1d(x, W), and alike for images and volumes
    einsum("nkctv,kvw->nctw", x, W), tensordot    linear, between the permutations that these are made of

Where folding leaves such a layer as it was, the call is put back; a linear layer alone costs the same and
stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import fx
from torch.fx.node import map_arg

from bnfold import graph as g
from bnfold.fold.constants import Constants

aten = torch.ops.aten

Labels = tuple[int, ...]

_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
_MOVES_AXES = frozenset({aten.einsum.default, aten.tensordot.default})


@dataclass(frozen=True)
class _Product:
    """``result[labels] = sum over the labels that it lacks of x[labels] * matrix[labels]``, and a bias.

    The matrix may have axes of size 1 in front of those that have a label.
    """

    x: fx.Node
    matrix: fx.Node
    x_labels: Labels
    matrix_labels: Labels
    labels: Labels
    bias: fx.Node | None = None

    def sizes(self) -> dict[int, Any] | None:
        """By label; None where the two disagree, as for a size of 1 that is broadcast."""
        found: dict[int, Any] = dict(zip(self.x_labels, g.value(self.x).shape, strict=True))
        own = g.value(self.matrix).shape[-len(self.matrix_labels) :]
        for label, size in zip(self.matrix_labels, own, strict=True):
            if str(found.setdefault(label, size)) != str(size):
                return None
        return found


@dataclass(frozen=True)
class _Written:
    """One product as a layer: the call that it was, and the operators on the data that it is now."""

    target: Any
    arguments: tuple[Any, dict[str, Any]]
    x: fx.Node
    chain: tuple[fx.Node, ...]
    weight: fx.Node


class Products:
    """Writes every product with a constant as a layer for as long as the folding takes."""

    def __init__(self, graph: fx.Graph, constants: Constants) -> None:
        self._graph, self._constants = graph, constants
        self._weights: dict[tuple[fx.Node, Labels, tuple[int, ...]], fx.Node] = {}
        self._written: list[_Written] = []
        for node in list(graph.nodes):
            if node.op == "call_function" and node.target in _READ:
                found = self._read(node)
                if found is not None:
                    self._write(node, found)

    def restore(self) -> None:
        """Put back each call of which nothing has changed."""
        for written in self._written:
            chain = written.chain
            alone = all(list(node.users) == [following] for node, following in pairwise(chain))
            layers = [node for node in chain if written.weight in node.all_input_nodes]
            if not alone or not chain[-1].users or len(layers) != 1:
                continue
            if g.arguments(layers[0])["bias"] is not None:
                continue
            args, kwargs = _reading(g.data_input(chain[0]), written)
            with self._graph.inserting_before(chain[-1]):
                call = self._graph.call_function(written.target, args, kwargs)
            call.meta = dict(chain[-1].meta)
            call.meta["sites"] = frozenset[int]().union(*(node.meta["sites"] for node in chain))
            chain[-1].replace_all_uses_with(call)
            for node in reversed(chain):
                self._graph.erase_node(node)

    # --- what it is --------------------------------------------------------------------------------------

    def _read(self, node: fx.Node) -> _Product | None:
        """The call as a product with a constant matrix, or None."""
        found = _READ[cast(Any, node.target)](node, self._is_matrix)
        if found is None or self._constants.is_constant(found.x):
            return None
        kinds = {g.value(one).dtype for one in (found.x, found.matrix, node)}
        alone = [set(found.x_labels), set(found.matrix_labels), set(found.labels)]
        repeated = any(
            len(labels) != len(kept)
            for labels, kept in zip((found.x_labels, found.matrix_labels, found.labels), alone, strict=True)
        )
        x, matrix, result = alone
        if len(kinds) > 1 or repeated or not g.value(node).is_floating_point():
            return None
        if x & matrix & result or not x & matrix or (x ^ matrix) != result or not x - matrix:
            return None  # the same batch in both, or a sum over one of the two alone
        return found

    def _is_matrix(self, node: Any) -> bool:
        return isinstance(node, fx.Node) and self._constants.is_constant(node)

    # --- how it is written -------------------------------------------------------------------------------

    def _write(self, node: fx.Node, product: _Product) -> None:
        sizes = product.sizes()
        summed = [label for label in product.x_labels if label in product.matrix_labels]
        made = [label for label in product.labels if label in product.matrix_labels]
        free = [label for label in product.labels if label in product.x_labels]
        if sizes is None or not all(isinstance(sizes[label], int) for label in (*summed, *made)):
            return
        shape = [math.prod(sizes[label] for label in labels) for labels in (made, summed)]
        conv = _as_convolution(product, free, summed, made)
        if conv is not None:
            weight = self._weight(product, (*made, *summed), (*shape, *[1] * (len(free) - 1)))
            self._replace(node, product, [(conv, (weight,))], weight)
            return
        order, back = (*free, *summed), (*free, *made)
        moved = order != product.x_labels or back != product.labels
        if moved and node.target not in _MOVES_AXES:
            return  # the transpositions would be operators of their own
        weight = self._weight(product, (*made, *summed), tuple(shape))
        steps: list[tuple[Any, tuple[Any, ...]]] = []
        if order != product.x_labels:
            steps.append((aten.permute.default, ([product.x_labels.index(label) for label in order],)))
        if len(summed) > 1:
            steps.append((aten.flatten.using_ints, (len(free), -1)))
        steps.append((aten.linear.default, (weight, product.bias)))
        if not made:
            steps.append((aten.squeeze.dim, (-1,)))
        elif len(made) > 1:
            steps.append((aten.unflatten.int, (-1, [sizes[label] for label in made])))
        if back != product.labels:
            steps.append((aten.permute.default, ([back.index(label) for label in product.labels],)))
        self._replace(node, product, steps, weight)

    def _replace(
        self,
        node: fx.Node,
        product: _Product,
        steps: list[tuple[Any, tuple[Any, ...]]],
        weight: fx.Node,
    ) -> None:
        """Write the steps in the place of the call; a linear layer alone is there to stay."""
        source, chain = product.x, []
        with self._graph.inserting_before(node):
            for target, rest in steps:
                source = self._graph.call_function(target, (source, *rest))
                chain.append(source)
        for step in chain:
            step.meta = {**node.meta, "reference": None, "sites": frozenset()}
        chain[-1].meta = dict(node.meta)
        layer = next(place for place, (_, rest) in enumerate(steps) if weight in rest)
        for step in chain[:layer]:
            step.meta["val"] = step.target(g.value(g.data_input(step)), *step.args[1:])  # type: ignore[operator]
        for step in reversed(chain[layer + 1 :]):
            g.data_input(step).meta["val"] = _undone(step)
        node.replace_all_uses_with(chain[-1])
        if len(chain) > 1 or chain[0].target is not aten.linear.default:
            call = (node.args, dict(node.kwargs))
            self._written.append(_Written(node.target, call, product.x, tuple(chain), weight))
        self._graph.erase_node(node)

    def _weight(self, product: _Product, order: Labels, shape: tuple[int, ...]) -> fx.Node:
        """The matrix as the layer's weight; one for all calls that need the same."""
        weight = product.matrix
        key = (weight, tuple(product.matrix_labels.index(label) for label in order), shape)
        if key in self._weights:
            return self._weights[key]

        def then(target: Any, *rest: Any) -> None:
            nonlocal weight
            with self._graph.inserting_after(weight):
                new = self._graph.call_function(target, (weight, *rest))
            new.meta = {"val": target(g.value(weight), *rest), "reference": None, "sites": frozenset()}
            weight = new

        axes = list(key[1])
        if g.value(weight).ndim > len(axes):
            then(aten.reshape.default, list(g.value(weight).shape[-len(axes) :]))
        if axes == [1, 0]:
            then(aten.t.default)
        elif axes != sorted(axes):
            then(aten.permute.default, axes)
        if tuple(g.value(weight).shape) != shape:
            then(aten.reshape.default, list(shape))
        self._weights[key] = weight
        return weight


def _reading(source: fx.Node, written: _Written) -> Any:
    """The arguments of the call that a product was, on what the layer reads now."""
    return map_arg(written.arguments, lambda node: source if node is written.x else node)


def _as_convolution(product: _Product, free: list[int], summed: list[int], made: list[int]) -> Any:
    """The convolution whose 1 x 1 case this is; None where the channels are not axis 1 on both sides."""
    if len(summed) != 1 or len(made) != 1 or not 2 <= len(free) <= 4 or product.bias is not None:
        return None
    first, *rest = free
    if product.x_labels != (first, *summed, *rest) or product.labels != (first, *made, *rest):
        return None
    return _CONVOLUTIONS[len(rest) - 1]


def _undone(step: fx.Node) -> torch.Tensor:
    """The fake tensor before a step behind the layer."""
    value = g.value(step)
    if step.target is aten.permute.default:
        axes = cast(list[int], step.args[1])
        return value.permute([axes.index(axis) for axis in range(len(axes))])
    if step.target is aten.squeeze.dim:
        return value.unsqueeze(-1)
    return value.flatten(value.ndim - len(cast(list[int], step.args[2])), -1)


# --- calls as products -------------------------------------------------------------------------------------

_IsMatrix = Callable[[Any], bool]


def _matmul(node: fx.Node, is_matrix: _IsMatrix) -> _Product | None:
    """matmul, mm and bmm: the matrix on the left or on the right, expanded over the batch or not."""
    a, b = node.args[:2]
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
        return None
    shape = g.value(node).shape
    for x, other, on_the_right in ((a, b, True), (b, a, False)):
        rank, matrix = g.value(x).ndim, _unexpanded(other)
        if rank < 2 or not is_matrix(matrix) or matrix is None:
            continue
        if len(shape) != rank or not _equal(shape[:-2], g.value(x).shape[:-2]):
            continue  # x is broadcast
        *batch, row, column = range(rank)
        if on_the_right:
            return _Product(x, matrix, (*batch, row, column), (column, rank), (*batch, row, rank))
        return _Product(x, matrix, (*batch, row, column), (rank, row), (*batch, rank, column))
    return None


def _addmm(node: fx.Node, is_matrix: _IsMatrix) -> _Product | None:
    call = g.arguments(node)
    bias, x, matrix = call["self"], call["mat1"], call["mat2"]
    if call["alpha"] != 1 or call["beta"] != 1 or not is_matrix(matrix):
        return None
    if not _equal(g.value(bias).shape, g.value(matrix).shape[1:]):
        return None  # one that is broadcast
    return _Product(x, matrix, (0, 1), (1, 2), (0, 2), bias)


def _inner(node: fx.Node, is_matrix: _IsMatrix) -> _Product | None:
    x, matrix = cast(tuple[fx.Node, fx.Node], node.args[:2])
    rank = g.value(x).ndim
    if rank < 2 or g.value(matrix).ndim != 2 or not is_matrix(matrix):
        return None
    axes = tuple(range(rank))
    return _Product(x, matrix, axes, (rank, rank - 1), (*axes[:-1], rank))


def _tensordot(node: fx.Node, is_matrix: _IsMatrix) -> _Product | None:
    call = g.arguments(node)
    operands = (call["self"], call["other"])
    ranks = [g.value(operand).ndim for operand in operands]
    labels = [list(range(ranks[0])), list(range(ranks[0], sum(ranks)))]
    for here, there in zip(call["dims_self"], call["dims_other"], strict=True):
        labels[1][there] = labels[0][here]
    summed = set(labels[0]) & set(labels[1])
    result = tuple(label for label in (*labels[0], *labels[1]) if label not in summed)
    return _of_two(operands, (tuple(labels[0]), tuple(labels[1])), result, is_matrix)


def _einsum(node: fx.Node, is_matrix: _IsMatrix) -> _Product | None:
    call = g.arguments(node)
    equation, operands = call["equation"].replace(" ", ""), tuple(call["tensors"])
    given, arrow, result = equation.partition("->")
    terms = given.split(",")
    if len(operands) != 2 or len(terms) != 2:
        return None
    dots = [g.value(o).ndim - len(t.replace("...", "")) for o, t in zip(operands, terms, strict=True)]
    if all("..." in term and wide for term, wide in zip(terms, dots, strict=True)):
        return None  # both have a batch that is not named
    if not arrow:  # those that stand there once, in alphabetical order, behind what is not named
        letters = given.replace("...", "").replace(",", "")
        result = "..." * ("..." in given) + "".join(c for c in sorted(letters) if letters.count(c) == 1)
    most = max(0, *(wide for wide, term in zip(dots, terms, strict=True) if "..." in term), 0)
    named = [_labels(term, wide) for term, wide in zip(terms, dots, strict=True)]
    return _of_two(operands, (named[0], named[1]), _labels(result, most), is_matrix)


def _labels(term: str, dots: int) -> Labels:
    """The code of each letter; negative numbers for the axes that three dots stand for."""
    before, there, behind = term.partition("...")
    unnamed = range(-dots, 0) if there else ()
    return (*map(ord, before), *unnamed, *map(ord, behind))


def _of_two(
    operands: tuple[fx.Node, ...], labels: tuple[Labels, Labels], result: Labels, is_matrix: _IsMatrix
) -> _Product | None:
    """The product of the operand that is data and the one that is constant."""
    for x, matrix in ((0, 1), (1, 0)):
        if is_matrix(operands[matrix]):
            return _Product(operands[x], operands[matrix], labels[x], labels[matrix], result)
    return None


def _unexpanded(node: fx.Node) -> fx.Node | None:
    """The matrix that is expanded or repeated over the axes in front of it; None for several matrices."""
    if node.target in (aten.expand.default, aten.repeat.default):
        before = g.data_input(node)
        same = g.value(before).ndim >= 2 and _equal(g.value(before).shape[-2:], g.value(node).shape[-2:])
        return _unexpanded(before) if same else None
    return node if all(size == 1 for size in g.value(node).shape[:-2]) and g.value(node).ndim >= 2 else None


def _equal(some: Any, others: Any) -> bool:
    """Whether sizes are equal, without asking it of a symbolic one, which would be remembered."""
    return [str(size) for size in some] == [str(size) for size in others]


_READ: dict[Any, Callable[[fx.Node, _IsMatrix], _Product | None]] = {
    aten.mm.default: _matmul,
    aten.bmm.default: _matmul,
    aten.matmul.default: _matmul,
    aten.addmm.default: _addmm,
    aten.inner.default: _inner,
    aten.tensordot.default: _tensordot,
    aten.einsum.default: _einsum,
}
