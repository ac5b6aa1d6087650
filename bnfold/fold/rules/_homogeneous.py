"""What the two rules for positively homogeneous operators share."""

from __future__ import annotations

import torch

from bnfold.fold.rules import _monotone
from bnfold.fold.rules._base import Operator

aten = torch.ops.aten

MAXIMA = _monotone.MAX_POOLS | frozenset({aten.amax.default})
OPERATORS = _monotone.RELUS | _monotone.LEAKY | MAXIMA | frozenset({aten.abs.default})


def passes_shift(operator: Operator) -> bool:
    """A maximum commutes with a shift; a max pooling's padding is minus infinity."""
    return operator.node.target in MAXIMA
