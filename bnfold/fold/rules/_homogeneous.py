"""What the two rules for positively homogeneous operators share."""

from __future__ import annotations

import torch

from bnfold.fold.rules import _monotone
from bnfold.fold.rules._base import Operator

aten = torch.ops.aten

OPERATORS = _monotone.RELUS | _monotone.LEAKY | _monotone.MAX_POOLS | frozenset({aten.abs.default})


def keeps_axis(operator: Operator, axis: int) -> bool:
    """Whether the channels on ``axis`` come out as they went in, and a slope is not another channel's."""
    target, rank = operator.node.target, len(operator.input_shape)
    if target in _monotone.MAX_POOLS:
        return axis < rank - int(target._opname.removeprefix("max_pool")[0])
    return True


def passes_shift(operator: Operator) -> bool:
    """Max pooling commutes with a shift; its padding is minus infinity."""
    return operator.node.target in _monotone.MAX_POOLS
