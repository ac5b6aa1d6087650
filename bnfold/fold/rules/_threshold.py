"""A clamp with bounds per channel, as the one operator that does it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import fx

from bnfold.affine import Array
from bnfold.fold.rules._base import Move, Operator, Pending, Refusal
from bnfold.fold.rules._monotone import bounds, on_axis

aten = torch.ops.aten


def own_bounds(operator: Operator, pending: Pending) -> tuple[Array, Array] | Refusal:
    """The clamp's bounds per channel of the affine, or why they cannot move with it."""
    rank, affine = len(operator.output_shape), pending.affine
    found = bounds(operator, rank, pending.axis, affine.channels)
    if found is None or operator.input_shape != operator.output_shape:
        return Refusal("its bounds are not one constant per channel")
    if affine.map is not None:
        return Refusal("a shift that differs at the border would need bounds that do")
    return found


def clamp_move(
    low: Array,
    high: Array,
    rank: int,
    axis: int,
    *,
    before: Mapping[fx.Node, Pending] | None = None,
    after: Pending | None = None,
) -> Move:
    """The move that puts maximum, minimum or clamp in the operator's place."""
    if np.isposinf(high).all():
        becomes, weights = aten.maximum.default, {"other": low}
    elif np.isneginf(low).all():
        becomes, weights = aten.minimum.default, {"other": high}
    else:
        becomes, weights = aten.clamp.Tensor, {"min": low, "max": high}
    shaped = {name: on_axis(values, rank, axis) for name, values in weights.items()}
    return Move(shaped, after, before or {}, becomes)
