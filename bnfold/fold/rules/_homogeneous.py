"""What the two rules for positively homogeneous operators share."""

from __future__ import annotations

import torch

from bnfold.fold.rules import _monotone
from bnfold.fold.rules._base import Operator

aten = torch.ops.aten

MAXIMA = _monotone.MAX_POOLS | frozenset({aten.amax.default})
OPERATORS = _monotone.RELUS | _monotone.LEAKY | MAXIMA | frozenset({aten.abs.default})


def output_axis(operator: Operator, axis: int) -> int | None:
    """Where the channels on an input's axis come out; None where a maximum is taken over them."""
    target, rank = operator.node.target, len(operator.input_shape)
    if target in _monotone.MAX_POOLS:
        return axis if axis < rank - int(target._opname.removeprefix("max_pool")[0]) else None
    if target is not aten.amax.default:
        return axis
    dims = {dim % rank for dim in operator.arguments["dim"]} or set(range(rank))
    if axis in dims:
        return None
    return axis if operator.arguments["keepdim"] else axis - sum(dim < axis for dim in dims)


def input_axis(operator: Operator, axis: int) -> int | None:
    """Where the channels on an output's axis come from."""
    axes = range(len(operator.input_shape))
    return next((candidate for candidate in axes if output_axis(operator, candidate) == axis), None)


def passes_shift(operator: Operator) -> bool:
    """A maximum commutes with a shift; a max pooling's padding is minus infinity."""
    return operator.node.target in MAXIMA
