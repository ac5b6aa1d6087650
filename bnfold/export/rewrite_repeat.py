"""Repetitions of maps: the TFLite converter orders their axes anew, and leaves counts and sizes alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import fx

from bnfold.export.rewrite import Call, Replacement, Rewrite, constant

aten = torch.ops.aten

_MAP_AXES = 4  # what has fewer is not ordered anew


def repeat(call: Call) -> Replacement | None:
    """Every axis is joined to itself; counts may add axes in front."""
    counts = list(call["repeats" if "repeats" in call.arguments else "dims"])
    rank = call["self"].dim()
    if max(len(counts), rank) < _MAP_AXES or min(counts) < 1 or max(counts) == 1:
        return None
    counts = [1] * (rank - len(counts)) + counts

    def function(x: torch.Tensor) -> torch.Tensor:
        x = x.reshape([1] * (len(counts) - rank) + list(x.shape))
        return _joined(x, counts)

    return Replacement(function)


def expand(call: Call) -> Replacement | None:
    """What is expanded is joined to itself; a constant is computed."""
    shape, rank = tuple(call.result.shape), call["self"].dim()
    if len(shape) < _MAP_AXES:
        return None
    if (known := constant(call, 0)) is not None:
        return Replacement(lambda *tensors: tensors[-1], (known.detach().expand(shape).clone(),))

    def function(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        if rank < len(shape):
            x = x.reshape([1] * (len(shape) - rank) + list(x.shape))
        return _joined(x, [size // before for size, before in zip(shape, x.shape, strict=True)])

    return Replacement(function)


def _joined(x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """``counts`` times itself along each axis; by their prime factors, which takes few steps."""
    for axis, count in enumerate(counts):
        prime = 2
        while count > 1:
            while count % prime == 0:
                x, count = torch.cat([x] * prime, axis), count // prime
            prime += 1
    return x


def spare_expansions(module: fx.GraphModule) -> None:
    """Let operators that broadcast read what was expanded for them, where their result stays the same."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in _EXPANSIONS:
            continue
        source = node.args[0]
        before = source.meta["val"]
        for user in list(node.users):
            if user.target not in _BROADCASTING or before.dim() != node.meta["val"].dim():
                continue
            shapes = [
                (before if operand is node else operand.meta["val"]).shape
                for operand in user.args[:2]
                if isinstance(operand, fx.Node)
            ]
            if np.broadcast_shapes(*shapes) == user.meta["val"].shape:
                user.replace_input_with(node, source)
        if not node.users:
            module.graph.erase_node(node)
    module.recompile()


_EXPANSIONS = (aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
_BROADCASTING = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)

# of the network's own: what other rewrites expand, as a kernel over the batch, is not between maps
FIRST = (Rewrite("expand", _EXPANSIONS, expand),)
REWRITES = (Rewrite("repeat", (aten.repeat.default, aten.tile.default), repeat),)
