"""What the rules for sums of branches share."""

from __future__ import annotations

import torch
from torch import fx

from bnfold import graph as g
from bnfold.fold.rules._base import Operator, Pending

aten = torch.ops.aten

OPERATORS = frozenset({aten.add.Tensor, aten.sub.Tensor})


def terms(operator: Operator) -> tuple[fx.Node, fx.Node, float] | None:
    """a, b and the sign of b in a + b or a - b; None for x + x, a factor alpha, or anything but tensors."""
    a, b = operator.node.args[:2]
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node) or a is b:
        return None
    if operator.arguments["alpha"] != 1 or not g.value(operator.node).is_floating_point():
        return None
    return a, b, 1.0 if operator.node.target is aten.add.Tensor else -1.0


def same_shape(operator: Operator, pending: Pending) -> bool:
    """Whether both terms have the result's rank and its number of channels: the rest may be broadcast."""
    result = operator.output_shape
    for term in operator.node.args[:2]:
        assert isinstance(term, fx.Node)
        shape = g.value(term).shape
        if len(shape) != len(result) or shape[pending.axis] != result[pending.axis]:
            return False
        if pending.affine.map is not None and tuple(shape) != tuple(g.value(operator.node).shape):
            return False
    return True
