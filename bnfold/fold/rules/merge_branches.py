"""Parallel linear branches of one value become one layer.

    W1 * x + W2 * x    =  (W1 + W2) * x
        kernels centred, 1 x 1 in the middle of 3 x 3
    W * x + (s x + t)  =  (W + diag(s)) * x + t
        a BatchNorm, or nothing at all, beside a convolution

Found from the graph, whatever the classes are called (RepVGG, MobileOne, and residual connections around
one convolution). The smaller kernel is written into the larger: tap k2 of one reads where tap k1 = (p1 -
p2 + k2 d2) / d1 of the other does. Grouped branches fit a host with fewer or as many groups. Linear
layers over one input merge alike.

Refuses: branches of which either output has another reader; other strides; kernels that do not fit into
one of the two; an identity with other channels; weights that depend on the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from bnfold import graph as g
from bnfold.affine import Affine, Array
from bnfold.fold.rules import _conv
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule

aten = torch.ops.aten


@dataclass(frozen=True)
class _Layer:
    """A convolution or linear layer on ``source``; a linear layer is a kernel without spatial axes."""

    node: fx.Node
    source: fx.Node
    weight: Array
    bias: Array | None
    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()


class MergeBranches(Rule):
    name = "merge-branches"
    algebra = "W1*x + W2*x = (W1 + W2)*x; W*x + (sx + t) = (W + diag s)*x + t"
    direction = "merge"
    operators = frozenset({aten.add.Tensor})

    def match(self, operator: Operator, pending: Pending) -> Answer:
        a, b = operator.node.args[:2]
        if not isinstance(a, fx.Node) or not isinstance(b, fx.Node) or a is b:
            return Refusal("it is not the sum of two values")
        if operator.arguments["alpha"] != 1:
            return Refusal("one of its terms is multiplied")
        if g.value(a).shape != g.value(b).shape:
            return Refusal("one of its terms is broadcast")
        for host_node, other in ((a, b), (b, a)):
            host = self._layer(operator, host_node)
            if host is None:
                continue
            merged = self._with_layer(operator, host, other) or self._with_identity(operator, host, other)
            if merged is not None:
                weight, bias = merged
                weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
                return Move(weights, host=host_node)
        return Refusal("its terms are not linear layers of one value")

    def _layer(self, operator: Operator, node: fx.Node) -> _Layer | None:
        """The term as a layer that only the sum reads."""
        if len(node.users) != 1 or node.target not in _conv.PLAIN | {aten.linear.default}:
            return None
        call = g.arguments(node)
        weight = operator.value(call["weight"])
        bias = operator.value(call["bias"]) if call["bias"] is not None else None
        if weight is None or (bias is None and call["bias"] is not None):
            return None
        source = g.data_input(node)
        if node.target is aten.linear.default:
            return _Layer(node, source, weight, bias) if weight.ndim == 2 else None
        rank = weight.ndim - 2
        if g.value(source).ndim != weight.ndim:
            return None
        stride, dilation = _per_axis(call["stride"], rank), _per_axis(call["dilation"], rank)
        padding = _padding(call["padding"], weight, dilation)
        if padding is None:
            return None
        return _Layer(node, source, weight, bias, call["groups"], stride, padding, dilation)

    def _with_layer(
        self, operator: Operator, host: _Layer, other: fx.Node
    ) -> tuple[Array, Array | None] | None:
        layer = self._layer(operator, other)
        if layer is None or layer.source is not host.source or layer.stride != host.stride:
            return None
        weight = _embedded(layer, host)
        if weight is None:
            return None
        biases = [bias for bias in (host.bias, layer.bias) if bias is not None]
        return host.weight + weight, sum(biases[1:], biases[0]) if biases else None

    def _with_identity(
        self, operator: Operator, host: _Layer, other: fx.Node
    ) -> tuple[Array, Array | None] | None:
        """The other term is the host's own input, or an affine of it."""
        outputs = host.weight.shape[0]
        affine = Affine.identity(outputs)
        if other in operator.pending:
            here = operator.pending[other]
            axis = g.value(other).ndim - 1 if host.weight.ndim == 2 else 1
            on_axis = here.on(axis, outputs) if len(other.users) == 1 else None
            if on_axis is None or on_axis.map is not None:
                return None
            affine, other = on_axis, g.data_input(other)
        if other is not host.source or host.weight.shape[1] * host.groups != outputs:
            return None
        rank = host.weight.ndim - 2
        if any(step != 1 for step in host.stride):
            return None
        kernel = np.zeros((outputs, 1, *[1] * rank))
        kernel[:, 0] = affine.scale.reshape(-1, *[1] * rank)
        identity = _Layer(
            host.node, host.source, kernel, None, outputs, host.stride, (0,) * rank, (1,) * rank
        )
        weight = _embedded(identity, host)
        if weight is None:
            return None
        bias = host.bias
        if affine.has_shift:
            bias = affine.shift if bias is None else bias + affine.shift
        return host.weight + weight, bias

    def cases(self) -> list[Case]:
        class Branches(nn.Module):
            """RepVGG's block: k x k, 1 x 1 and identity, each with its BatchNorm."""

            def __init__(self, channels: int, outputs: int, *, groups: int = 1, stride: int = 1) -> None:
                super().__init__()
                self.large = nn.Conv2d(channels, outputs, 3, stride, 1, groups=groups, bias=False)
                self.small = nn.Conv2d(channels, outputs, 1, stride, groups=groups)
                self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))
                keeps = channels == outputs and stride == 1
                self.identity = nn.BatchNorm2d(channels) if keeps else None

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.norms[0](self.large(x)) + self.norms[1](self.small(x))
                if self.identity is not None:
                    y = y + self.identity(x)
                return torch.relu(y)

        class Linear(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.a(x) + self.b(x) + self.norm(x)
                return y

        return [
            Case("RepVGG", lambda: Branches(4, 4), (2, 4, 5, 6), ("folded",) * 3),
            Case("grouped, sizes equal", lambda: Branches(4, 4, groups=2), (4, 4, 4, 4), ("folded",) * 3),
            Case("depthwise", lambda: Branches(4, 4, groups=4), (2, 4, 5, 6), ("folded",) * 3),
            Case("strided", lambda: Branches(4, 6, stride=2), (2, 4, 6, 7), ("folded",) * 2),
            Case("linear layers and an identity", Linear, (4, 4), ("folded",)),
        ]


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * rank if len(values) == 1 else values


def _padding(padding: Any, weight: Array, dilation: tuple[int, ...]) -> tuple[int, ...] | None:
    """The padding on each side; None where 'same' is not the same on both sides."""
    rank = weight.ndim - 2
    if padding == "valid":
        return (0,) * rank
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        return None if any(size % 2 for size in total) else tuple(size // 2 for size in total)
    return _per_axis(padding, rank)


def _embedded(layer: _Layer, host: _Layer) -> Array | None:
    """The weight of ``layer`` in the shape of the host's, or None where it does not fit."""
    places = []
    for axis in range(host.weight.ndim - 2):
        taps = []
        for tap in range(layer.weight.shape[2 + axis]):
            offset = host.padding[axis] - layer.padding[axis] + tap * layer.dilation[axis]
            place, rest = divmod(offset, host.dilation[axis])
            if rest or not 0 <= place < host.weight.shape[2 + axis]:
                return None
            taps.append(place)
        places.append(taps)
    grouped = _in_groups(layer.weight, layer.groups, host)
    if grouped is None:
        return None
    weight = np.zeros_like(host.weight)
    weight[np.ix_(range(weight.shape[0]), range(weight.shape[1]), *places)] = grouped
    return weight


def _in_groups(weight: Array, groups: int, host: _Layer) -> Array | None:
    """(out, in / groups, ...) written as (out, in / host.groups, ...): finer groups are blocks of coarser."""
    if groups == host.groups:
        return weight
    if groups % host.groups:
        return None
    outputs, columns = weight.shape[0], weight.shape[1]
    wide = np.zeros((outputs, host.weight.shape[1], *weight.shape[2:]))
    finer = groups // host.groups
    for row in range(outputs):
        start = (row // (outputs // groups)) % finer * columns
        wide[row, start : start + columns] = weight[row]
    return wide
