"""What is still pending at the end, as operators: a multiplication, an addition, or both; never more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from bnfold import graph as g
from bnfold.affine import Array
from bnfold.fold.body import Body
from bnfold.fold.pending import USER, Origin
from bnfold.fold.site import Site

aten = torch.ops.aten


def lower(body: Body, sites: Sequence[Site]) -> None:
    """Write every pending affine as operators; ``meta["left_by"]`` says who answers for each."""
    for node in body.waiting():
        origin = body.pending[node].origin
        result = _as_operators(body, node, sites) if origin is None else _as_before(body, node, origin)
        body.take_out(node, result)


def _as_operators(body: Body, node: fx.Node, sites: Sequence[Site]) -> fx.Node:
    pending, owners = body.pending[node], body.owners[node]
    affine = pending.affine
    shape = [1] * g.value(node).ndim
    shape[pending.axis] = affine.channels
    parts: list[tuple[Any, str, Array, int]] = []
    if affine.has_scale:
        parts.append((aten.mul.Tensor, "scale", affine.scale.reshape(shape), owners.scale))
    if affine.map is not None:
        total = affine.map[None] + affine.shift.reshape(shape)
        parts.append((aten.add.Tensor, "shift", total, owners.map))
    elif affine.has_shift:
        parts.append((aten.add.Tensor, "shift", affine.shift.reshape(shape), owners.shift))
    result = g.data_input(node)
    for operator, role, array, owner in parts:
        named = "own" if owner == USER else sites[owner].entry.name.replace("#", "_")
        constant = body.constant(node, f"{named}.{role}", array, g.dtype(node))
        with body.graph.inserting_before(node):
            result = body.graph.call_function(operator, (result, constant))
        result.meta = {**node.meta, "reference": None, "left_by": owner}
    result.meta["reference"] = node.meta["reference"]
    return result


def _as_before(body: Body, node: fx.Node, origin: Origin) -> fx.Node:
    """A call of the network's own that never moved, as it was."""
    source = g.data_input(node)
    args, kwargs = map_arg((origin.args, origin.kwargs), lambda n: source if n is origin.source else n)
    with body.graph.inserting_before(node):
        result = body.graph.call_function(origin.target, args, kwargs)
    result.meta = {**node.meta, "left_by": USER}
    return result
