"""What the two rules for concatenation share."""

from __future__ import annotations

from typing import cast

import torch
from torch import fx

from bnfold import graph as g
from bnfold.fold.rules._base import Operator

aten = torch.ops.aten

OPERATORS = frozenset({aten.cat.default, aten.concat.default, aten.concatenate.default})


def parts(operator: Operator) -> list[tuple[fx.Node, int]] | None:
    """The tensors that are joined and their sizes along the axis; None where one stands there twice."""
    tensors = cast(list[fx.Node], list(operator.arguments["tensors"]))
    if len(set(tensors)) != len(tensors):
        return None
    sizes = [g.value(tensor).shape[joined_axis(operator)] for tensor in tensors]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return list(zip(tensors, sizes, strict=True))


def joined_axis(operator: Operator) -> int:
    """The axis along which the tensors are joined."""
    axis: int = operator.arguments["dim"] % g.value(operator.node).ndim
    return axis
