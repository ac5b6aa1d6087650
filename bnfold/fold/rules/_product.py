"""What the rules for products of two values share."""

from __future__ import annotations

import torch
from torch import fx

from bnfold import graph as g
from bnfold.fold.rules._base import Operator, Refusal

OPERATORS = frozenset({torch.ops.aten.mul.Tensor})
NO_PRODUCT = Refusal("it is not the product of two values")


def factors(operator: Operator) -> tuple[fx.Node, fx.Node] | None:
    """x and y in x * y; None for x * x, a number, or anything but floats."""
    found = [argument for argument in operator.node.args if isinstance(argument, fx.Node)]
    if len(set(found)) != 2 or not g.value(operator.node).is_floating_point():
        return None
    return found[0], found[1]


def has_channels(factor: fx.Node, operator: Operator, axis: int) -> bool:
    """Whether a factor has the product's rank and channels: the rest may be broadcast."""
    shape, result = g.value(factor).shape, operator.output_shape
    return len(shape) == len(result) and shape[axis] == result[axis]
