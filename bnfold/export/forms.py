"""What a fold leaves over, in the form that is fastest on the target.

A fold leaves a multiplication, an addition or both (:mod:`bnfold.fold.lowering`), and bounds per channel in
place of a relu. On some targets a 1x1 depthwise convolution with a bias is faster: interpreters fuse it with
the relu behind it, and it keeps the memory layout of the convolutions before and behind it.

    s x + t          =  conv(x; s, t)
    max(x, l)        =  relu(conv(x; 1, -l)) + l
    min(x, h)        =  h - relu(conv(x; -1, h))
    clamp(x, l, h)   =  w relu6(conv(x; 1 / w, -l / w)) + l,  w = (h - l) / 6

What stands behind the relu is an affine again. The forward rules of the fold put it into the weights of the
layers behind, or the bounds stay as they are. The rewriting is exact but for the one rounding of new weights.
Which form a target gets is a table of measurements, made with benchmarks/forms.py and written down in
docs/benchmarks.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from bnfold import graph as g
from bnfold.affine import Affine, Array
from bnfold.export.layout import Layout, is_map
from bnfold.fold.canonical import network_affines
from bnfold.fold.constants import Constants
from bnfold.fold.pending import Pending
from bnfold.fold.rules import Move, Operator, all_rules
from bnfold.fold.rules._monotone import bounds

aten = torch.ops.aten

ANY = math.inf


@dataclass(frozen=True)
class Target:
    """Where and up to how many channels the depthwise convolution is the faster form on a target.

    Attributes:
        block: a convolution's result is held in blocks of so many channels. A value that is not keeps its
            elementwise operators: one more convolution would change its layout for its own sake.
        pair: the most channels where it takes the place of a multiplication and an addition; 0 for never.
        single: of one of them.
        bound: of a maximum or a minimum, one operator in the file.
        bounds: of a clamp with two tensors, two operators in the file.
    """

    block: int
    pair: float
    single: float
    bound: float
    bounds: float


ONNX = Target(block=16, pair=ANY, single=ANY, bound=ANY, bounds=ANY)
"""onnxruntime has a blocked layout (of 16 channels with AVX-512), and leaves it to add a constant."""

TFLITE = Target(block=1, pair=127, single=0, bound=0, bounds=127)
"""XNNPACK has one layout for all: an elementwise operator is the fastest, with many channels also two."""

_BOUNDS = frozenset({aten.maximum.default, aten.minimum.default, aten.clamp.Tensor})
_NARROWEST = 1e-5  # of the distances between two bounds, against the widest


def choose(module: fx.GraphModule, target: Target) -> list[str]:
    """Write what is left over in the target's forms, in place.

    Args:
        module: a graph whose nodes know their shapes (``meta["val"]``), with attributes of its own.
        target: the table of measurements.

    Returns:
        what was rewritten, in order: ``pair``, ``single``, ``bound`` or ``bounds``.
    """
    constants = Constants(module)
    affines = {
        node: pending.affine
        for node, pending in network_affines(module.graph, constants)
        if is_map(node) and pending.axis == 1 and not pending.affine.is_uniform
    }
    layout = Layout(target.block, constants)
    used = []
    for node in list(module.graph.nodes):
        if not node.users or not is_map(node):
            continue  # the second of a pair that is written already, or no map of channels
        is_left_over = node in affines or node.target in _BOUNDS
        if not is_left_over or constants.is_constant(node) or not layout.holds(_varying(node, constants)):
            continue
        source = _varying(node, constants)
        if node in affines:
            kind = _write_affine(module, node, source, affines, target)
        else:
            kind = _write_bounds(module, node, source, affines, constants, target)
        if kind is not None:
            used.append(kind)
    g.clean(module)
    return used


def _write_affine(
    module: fx.GraphModule, node: fx.Node, source: fx.Node, affines: dict[fx.Node, Affine], target: Target
) -> str | None:
    last, affine = node, affines[node]
    (reader, *others) = node.users
    if reader in affines and not others and affine.channels <= target.pair:
        last, affine = reader, affines[reader].after(affine)
    elif affine.channels > target.single:
        return None
    with module.graph.inserting_before(last):
        written = _depthwise(module, source, affine)
    affines[written] = affine
    _replace(last, written)
    return "single" if last is node else "pair"


def _write_bounds(
    module: fx.GraphModule,
    node: fx.Node,
    source: fx.Node,
    affines: Mapping[fx.Node, Affine],
    constants: Constants,
    target: Target,
) -> str | None:
    kind = "bounds" if node.target is aten.clamp.Tensor else "bound"
    channels = g.shape(node)[1]
    found = bounds(Operator(node, g.arguments(node), constants.value), 4, 1, channels)
    split = None if found is None or channels > getattr(target, kind) else _as_activation(*found)
    if split is None:
        return None
    activation, before, after = split
    moves = _absorbed(node, Pending(after, 1), constants)
    if moves is None:
        return None
    if source in affines and len(source.users) == 1:  # mixed signs leave an addition before the bounds
        before, source = before.after(affines[source]), _varying(source, constants)
    with module.graph.inserting_before(node):
        result = module.graph.call_function(activation, (_depthwise(module, source, before),))
    result.meta = dict(node.meta)
    _replace(node, result)
    for reader, move in moves.items():
        for name, array in move.weights.items():
            with module.graph.inserting_before(reader):
                constant = _constant(module, array, g.value(reader))
            g.set_argument(reader, name, constant)
    return kind


def _varying(node: fx.Node, constants: Constants) -> fx.Node:
    """The first input that is not constant."""
    return next(source for source in node.all_input_nodes if not constants.is_constant(source))


# --- the algebra -----------------------------------------------------------------------------------------


def _as_activation(low: Array, high: Array) -> tuple[Any, Affine, Affine] | None:
    """The activation, the affine before it and the affine behind it that together are the clamp.

    None where no one activation does it: a channel without bounds, or both kinds of channels.
    """
    one, both = np.isfinite(low) ^ np.isfinite(high), np.isfinite(low) & np.isfinite(high)
    fixed = both & (low == high)
    if (one | fixed).all():
        # a channel that is held at a constant is relu(0 x + 0) + l
        sign = np.where(fixed, 0.0, np.where(np.isfinite(low), 1.0, -1.0))
        end = np.where(np.isfinite(low), low, high)
        return aten.relu.default, Affine(sign, -sign * end), Affine(np.where(fixed, 1.0, sign), end)
    width = np.where(both & ~fixed, high - low, 6.0) / 6.0
    if both.all() and width.min() > _NARROWEST * width.max():
        scale = np.where(fixed, 0.0, 1.0 / width)
        return aten.relu6.default, Affine(scale, -scale * low), Affine(width, low)
    return None


def _absorbed(node: fx.Node, here: Pending, constants: Constants) -> dict[fx.Node, Move] | None:
    """Where the forward rules of the fold put an affine on a value, without leaving an operator anywhere.

    None where a reader does not take it.
    """
    moves: dict[fx.Node, Move] = {}
    waiting = [(node, here)]
    while waiting:
        edge, pending = waiting.pop()
        for reader in edge.users:
            move = None if reader in moves else _taken(reader, edge, pending, constants)
            if move is None:
                return None
            moves[reader] = move
            if move.after is not None:
                waiting.append((reader, move.after))
    return moves


def _taken(reader: fx.Node, edge: fx.Node, pending: Pending, constants: Constants) -> Move | None:
    if reader.op != "call_function" or g.times_read(reader, edge) != 1:
        return None
    operator = Operator(reader, g.arguments(reader), constants.value, {}, edge)
    for rule in all_rules():
        fits = rule.direction == "forward" and reader.target in rule.operators
        if not fits or not (rule.any_input or g.data_input(reader) is edge):
            continue
        answer = rule.match(operator, pending)
        for move in answer if isinstance(answer, tuple) else (answer,):
            if isinstance(move, Move) and not move.before and move.becomes is None and not _has_map(move):
                return move
    return None


def _has_map(move: Move) -> bool:
    return move.after is not None and move.after.affine.map is not None


# --- the graph -------------------------------------------------------------------------------------------


def _depthwise(module: fx.GraphModule, source: fx.Node, affine: Affine) -> fx.Node:
    like, channels = g.value(source), affine.channels
    weight = _constant(module, affine.scale.reshape(channels, 1, 1, 1), like)
    bias = _constant(module, affine.shift, like) if affine.has_shift else None
    arguments = (source, weight, bias, [1, 1], [0, 0], [1, 1], channels)
    new = module.graph.call_function(aten.conv2d.default, arguments)
    new.meta = {"val": like}
    return new


def _constant(module: fx.GraphModule, array: Array, like: torch.Tensor) -> fx.Node:
    """A constant of its own, rounded once."""
    number = 0
    while hasattr(module, f"form_constant_{number}"):
        number += 1
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(like.dtype)
    module.register_buffer(f"form_constant_{number}", tensor)
    node = module.graph.get_attr(f"form_constant_{number}")
    if isinstance(like, FakeTensor):
        node.meta["val"] = like.fake_mode.from_tensor(tensor)
    else:
        node.meta["val"] = tensor.to("meta")
    return node


def _replace(node: fx.Node, new: fx.Node) -> None:
    for key in ("stack_trace", "nn_module_stack"):
        for fresh in (new, *new.all_input_nodes):
            if key in node.meta and fresh.op == "call_function" and key not in fresh.meta:
                fresh.meta[key] = node.meta[key]
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
