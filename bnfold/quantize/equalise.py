"""Cross-layer equalisation: channels of very different size brought together before one scale rounds them
all.

An int8 tensor has one scale for all of its channels. Where a depthwise convolution makes some a thousand
times smaller than others, these round to nothing, though the next layer may weight them a thousand times
more. A layer's rows divided by s and the columns of all layers that read it multiplied by s are the same
network where everything in between is positively homogeneous, f(s x) = s f(x): relu, leaky relu, pooling,
means.

    s_i = sqrt(a_i / r_i)                a_i: the largest |value| of the channel over the frames
    s_i = a_i into a depthwise layer     r_i: the largest weight that reads it, of each output's largest

(Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv
1906.04721, with the ranges of values in place of those of the weights before: weights have a scale per
channel here. A depthwise layer has one input per output, so its scale takes all of s.) s is rounded to a
power of two: the float network stays the same in every bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from bnfold import graph as g
from bnfold.fold.rules import _conv, _monotone

Array = NDArray[np.float64]

aten = torch.ops.aten

_MOST = 2.0**12
"""Between the scales of one layer: beyond it a channel is dead, or rounding has made it."""
_ROOM = 4.0
"""Channels are brought to a quarter of the largest, and nearer ones left alone. Where all of them filled the
range, a frame unlike those that were seen would be cut off; and a quarter still has six of eight bits."""

_LINEAR = frozenset({aten.linear.default})
_ELEMENTWISE = _monotone.RELUS | _monotone.LEAKY
_POOLS = _monotone.MAX_POOLS | {
    aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default,
    aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default,
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A linear layer, and all that read it, across what is positively homogeneous."""

    producer: fx.Node
    seen: fx.Node
    consumers: tuple[fx.Node, ...]


def equalised(
    body: fx.GraphModule, calls: Iterable[Sequence[torch.Tensor]]
) -> tuple[fx.GraphModule, list[str]]:
    """The same function with its channels equalised, and the names of the layers that were changed.

    Args:
        body: a folded network in float32; it is not changed.
        calls: its inputs, in order, for some frames.

    Returns:
        A new body (or ``body`` itself, where nothing was worth it), equal to the old one in every bit as long
        as no value underflows.
    """
    copy = g.copy_body(body)
    found = pairs(copy)
    if not found:
        return body, []
    largest = _largest(copy, [pair.seen for pair in found], calls)
    changed = []
    for pair in found:
        scales = _scales(copy, pair, largest[pair.seen])
        if scales is None:
            continue
        _scale_outputs(copy, pair.producer, 1 / scales)
        for consumer in pair.consumers:
            _scale_inputs(copy, consumer, scales)
        changed.append(g.layer_name(pair.producer))
    return (copy, changed) if changed else (body, [])


def pairs(body: fx.GraphModule) -> list[Pair]:
    """Every layer whose readers are all layers with constant weights of their own, in execution order."""
    found = []
    for node in body.graph.nodes:
        if not _has_weights(node):
            continue
        consumers = _consumers(node, _channels(node))
        if consumers:
            readers = list(node.users)
            fused = len(readers) == 1 and readers[0].target in _ELEMENTWISE
            found.append(Pair(node, readers[0] if fused else node, tuple(consumers)))
    return found


def _has_weights(node: fx.Node) -> bool:
    """Whether it is a convolution of batched input or a linear layer whose constants nobody else reads."""
    if node.target not in _conv.PLAIN | _LINEAR:
        return False
    arguments = g.arguments(node)
    constants = [arguments["weight"], *([] if arguments["bias"] is None else [arguments["bias"]])]
    if any(constant.op != "get_attr" or len(constant.users) != 1 for constant in constants):
        return False
    rank = len(g.shape(g.data_input(node)))
    return rank == (2 if node.target in _LINEAR else len(g.shape(arguments["weight"])))


def _channels(node: fx.Node) -> int:
    return g.shape(g.arguments(node)["weight"])[0]


def _consumers(node: fx.Node, channels: int) -> list[fx.Node] | None:
    """The layers that read a value, across what keeps channels on axis 1; None where anything else does."""
    consumers: list[fx.Node] = []
    for reader in node.users:
        if g.times_read(reader, node) != 1 or not reader.args or reader.args[0] is not node:
            return None
        if _has_weights(reader):
            consumers.append(reader)
        elif _passes(reader, channels):
            behind = _consumers(reader, channels)
            if not behind:
                return None
            consumers += behind
        else:
            return None
    return consumers


def _passes(node: fx.Node, channels: int) -> bool:
    """Whether a positive scale per channel of axis 1 goes through, and stays on axis 1."""
    arguments = g.arguments(node)
    if node.target is aten.leaky_relu.default:
        return bool(arguments["negative_slope"] >= 0)
    if node.target in _ELEMENTWISE or node.target in _POOLS:
        return node.target is not aten.prelu.default or arguments["weight"].op == "get_attr"
    rank = len(g.shape(g.data_input(node)))
    if node.target is aten.mean.dim:
        axes = {axis % rank for axis in arguments["dim"] or []}
        return axes == set(range(2, rank))
    if node.target in (aten.view.default, aten.flatten.using_ints, aten.reshape.default):
        before = g.shape(g.data_input(node))
        return int(np.prod(before[2:])) == 1 and g.shape(node) == before[:2]
    return False


def _largest(
    body: fx.GraphModule, wanted: Sequence[fx.Node], calls: Iterable[Sequence[torch.Tensor]]
) -> dict[fx.Node, Array]:
    """The largest |value| of each channel of some nodes, over all calls."""
    found: dict[fx.Node, Array] = {}
    asked = set(wanted)

    class Watching(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if n in asked:
                assert isinstance(value, torch.Tensor)
                axes = [axis for axis in range(value.dim()) if axis != 1]
                here = value.abs().amax(axes).double().numpy()
                found[n] = np.maximum(found[n], here) if n in found else here
            return value

    with torch.no_grad():
        for call in calls:
            Watching(body).run(*call)
    return found


def _scales(body: fx.GraphModule, pair: Pair, largest: Array) -> Array | None:
    """By what each channel is divided: powers of two, at most 1; None where that is not worth it."""
    read = np.zeros_like(largest)
    depthwise = True
    for consumer in pair.consumers:
        weight = _weight(body, consumer)
        groups = _groups(consumer)
        depthwise = depthwise and groups == len(largest)
        rows = np.abs(weight).reshape(len(weight), weight.shape[1], -1).max(-1)
        rows /= np.maximum(rows.max(1, keepdims=True), np.finfo(np.float64).tiny)
        read = np.maximum(read, rows.reshape(groups, -1, rows.shape[1]).max(1).reshape(-1))
    alive = (largest > 0) & (read > 0) & np.isfinite(largest)
    if alive.sum() < 2:
        return None
    wanted = largest[alive] if depthwise else np.sqrt(largest[alive] / read[alive])
    scales = np.ones_like(largest)
    shares = np.clip(_ROOM * wanted / wanted.max(), 1 / _MOST, 1.0)
    scales[alive] = np.exp2(np.round(np.log2(shares)))
    return None if (scales == 1).all() else scales


def _scale_outputs(body: fx.GraphModule, layer: fx.Node, factors: Array) -> None:
    arguments = g.arguments(layer)
    for constant in (arguments["weight"], arguments["bias"]):
        if constant is not None:
            old = g.fetch(body, str(constant.target)).detach()
            _replace(body, constant, _conv.scale_first_axis(old.double().numpy(), factors), old.dtype)


def _scale_inputs(body: fx.GraphModule, layer: fx.Node, factors: Array) -> None:
    constant = g.arguments(layer)["weight"]
    new = _conv.scale_second_axis(_weight(body, layer), factors, _groups(layer))
    _replace(body, constant, new, g.fetch(body, str(constant.target)).dtype)


def _replace(body: fx.GraphModule, constant: fx.Node, new: Array, dtype: torch.dtype) -> None:
    g.fill(body, str(constant.target), torch.from_numpy(np.ascontiguousarray(new)).to(dtype))


def _weight(body: fx.GraphModule, layer: fx.Node) -> Array:
    weight = g.fetch(body, str(g.arguments(layer)["weight"].target))
    return np.asarray(weight.detach().double().numpy())


def _groups(layer: fx.Node) -> int:
    return int(g.arguments(layer).get("groups", 1))
