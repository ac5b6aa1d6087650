"""New weights: whether the operator's type holds them, and what they cost where others read the old ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import fx

from bnfold import graph as g
from bnfold.affine import Array
from bnfold.fold import cost
from bnfold.fold.cost import Price
from bnfold.fold.pending import Pending
from bnfold.fold.rules import Move
from bnfold.wording import count


def unfit(node: fx.Node, move: Move) -> str | None:
    """Why the operator's type cannot hold the new weights. A bound may be infinite, a weight may not."""
    dtype = g.dtype(node)
    kind = torch.finfo(dtype)
    for name, array in move.weights.items():
        checked = array[~np.isinf(array)] if move.becomes is not None else array
        if checked.size and not np.abs(checked).max() <= kind.max:
            return f"the folded {name} would overflow {g.dtype_name(dtype)}"
        if array.ndim > 1 and move.becomes is None and _vanishes(array, kind):
            return f"the folded {name} would lose its digits: subnormal in {g.dtype_name(dtype)}"
    return None


def has_weight(node: fx.Node) -> bool:
    """Whether it is a convolution or a linear layer.

    Computing one twice, for two readers of its value, is never tried: even a depthwise convolution takes
    longer than the multiplication and the addition that it would save.
    """
    weight = g.arguments(node).get("weight")
    return isinstance(weight, fx.Node) and g.value(weight).ndim > 1


def _vanishes(weight: Array, kind: torch.finfo) -> bool:
    """Whether all of a row that is not zero lies near or below the smallest normal number.

    Between the smallest normal number and 1 / eps above it, rounding costs the row no more than it costs any.
    """
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    return bool(((largest > 0) & (largest < kind.tiny / kind.eps * 2**-4)).any()) and kind.bits == 16


def copies(
    node: fx.Node, move: Move, here: Pending, pending: Mapping[fx.Node, Pending], *, forward: bool
) -> dict[str, torch.Tensor]:
    """The weights that a move copies, by name: other calls read them too, and go on reading the old values.

    None is copied where every other call has an affine that makes the same new weight of it.
    """
    if move.becomes is not None:
        return {}
    shared = {}
    for name in move.weights:
        weight = g.argument_at(node, name)
        if not isinstance(weight, fx.Node):
            continue
        others = [reader for reader in weight.users if reader is not node]
        alike = (
            other.target is node.target and _equal(here, _pending_at(other, pending, forward=forward))
            for other in others
        )
        if others and not all(alike):
            shared[str(weight.target)] = g.value(weight)
    return shared


def _pending_at(call: fx.Node, pending: Mapping[fx.Node, Pending], *, forward: bool) -> Pending | None:
    """The affine that waits before a call, or behind it, where it is the only one there."""
    edge = g.data_input(call) if forward else next(iter(call.users), call)
    alone = len(edge.users if forward else call.users) == 1
    return pending.get(edge) if alone else None


def _equal(a: Pending, b: Pending | None) -> bool:
    return (
        b is not None
        and a.axis == b.axis
        and a.affine.map is None
        and b.affine.map is None
        and np.array_equal(a.affine.scale, b.affine.scale)
        and np.array_equal(a.affine.shift, b.affine.shift)
    )


def price(copied: Mapping[str, torch.Tensor]) -> Price:
    """What copies of weights cost."""
    return sum((cost.copied_weight(weight) for weight in copied.values()), Price())


def declined(copied: Mapping[str, torch.Tensor]) -> str:
    """Why the weights are not copied. A bias is too small to tell of, unless it is all there is."""
    told = {name: weight for name, weight in copied.items() if weight.ndim > 1} or copied
    names = " and ".join(told)
    size = sum(weight.numel() * weight.element_size() for weight in told.values())
    return (
        f"other calls read {names} as well, and a copy of {count(size, 'byte')} would cost more than what is "
        "left over"
    )
