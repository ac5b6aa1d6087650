"""What the two rules for positively homogeneous operators share."""

from __future__ import annotations

import numpy as np
import torch

from bnfold.affine import Array
from bnfold.fold.rules import _monotone
from bnfold.fold.rules._base import Operator, Pending

aten = torch.ops.aten

MAXIMA = _monotone.MAX_POOLS | frozenset({aten.amax.default})
OPERATORS = _monotone.RELUS | _monotone.LEAKY | MAXIMA | frozenset({aten.abs.default})


def passes_shift(operator: Operator) -> bool:
    """A maximum commutes with a shift; a max pooling's padding is minus infinity."""
    return operator.node.target in MAXIMA


def of_constants(operator: Operator, pending: Pending) -> Array | None:
    """What the operator makes of the affine's shift, per channel; None where that is not known."""
    shift = pending.affine.shift
    if operator.node.target in MAXIMA or not shift.any():
        return shift
    if operator.node.target is aten.abs.default:
        return np.abs(shift)
    if operator.node.target in _monotone.RELUS:
        return np.maximum(shift, 0.0)
    slope = _monotone.slopes(operator, len(shift)) if pending.axis == 1 else None
    return None if slope is None else np.where(shift < 0, slope * shift, shift)
