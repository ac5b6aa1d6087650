"""Channel means of values in a graph, by the cheapest way, and what it costs.

A mean over all positions reads its value once more, and where an interpreter would have fused what stands
around it (a convolution with its ReLU6 or with the sum behind it), it reads and writes it more often: on a
MobileNetV2, naive taps double the time of a frame. But a mean is linear. With M(v) the mean of v:

    M(W x + b) = W M(x) + b     for a 1 x 1 convolution: its input may have a sixth of the channels
    M(a + b)   = M(a) + M(b)    for a residual sum: both may be there already
    M(a)       = M(a + b) - M(b)

So the mean of a wide value often follows from that of a narrow one, whose memory nobody would otherwise
fuse away. Means that are there are used again.

Costs are in multiplications and additions of a convolution that take as long: measured in onnxruntime and
TFLite on one core (benchmarks/monitor_cost.py), and good to about a factor of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnfold import graph as g

aten = torch.ops.aten

_VALUE = 30  # a value of a tensor that is read for its mean
_SUM_APART = 15  # and where a sum is computed by itself that would have been part of a convolution
_CLAMP_APART = 30  # the same of an activation with two ends, for which memory layouts are changed
_WEIGHT = 8  # a weight that is read for one position
_STEP = 60_000  # an operator, whatever its size
_DEPTH = 6  # steps of algebra in a row

_SUMS = (aten.add.Tensor,)
_CLAMPS = (aten.hardtanh.default, aten.clamp.default, aten.silu.default, aten.hardswish.default)
_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
_PRODUCTS = {aten.linear.default: 0, aten.mm.default: 0, aten.addmm.default: 1, aten.matmul.default: 0}
"""Matrix products, by the place of the argument whose last axis is summed over."""


@dataclass(frozen=True)
class Plan:
    """How to get a mean.

    Attributes:
        cost: of what is not there yet.
        build: adds the nodes; gives the one of shape (frames, channels, 1, 1).
    """

    cost: float
    build: Callable[[], fx.Node]


class Means:
    """Means of 4-D values of one graph. Nodes are added where the graph's insertion point is.

    Args:
        body: the graph, changed by what is built.
    """

    def __init__(self, body: fx.GraphModule) -> None:
        self._body = body
        self._known: dict[fx.Node, fx.Node] = {}
        self._own: set[fx.Node] = set()

    def plan(self, node: fx.Node) -> Plan:
        """The cheapest way to the mean of ``node``, (frames, channels, height, width)."""
        return self._plan(node, _DEPTH)

    def call(self, operator: Any, *arguments: Any, **named: Any) -> fx.Node:
        """Add a call of an operator."""
        node = self._body.graph.call_function(operator, arguments, named)
        values = [g.value(a) if isinstance(a, fx.Node) else a for a in arguments]
        node.meta["val"] = operator(*values, **named)
        self._own.add(node)
        return node

    def _plan(self, node: fx.Node, depth: int) -> Plan:
        if node in self._known:
            return Plan(0.0, lambda: self._known[node])
        ways = [self._read(node)]
        if depth:
            ways += self._through_point(node, depth) + self._of_sum(node, depth) + self._from_sum(node, depth)
        best = min(ways, key=lambda way: way.cost)

        def build() -> fx.Node:
            if node not in self._known:
                self._known[node] = best.build()
            return self._known[node]

        return Plan(best.cost, build)

    def _read(self, node: fx.Node) -> Plan:
        apart = 0
        users = [user for user in node.users if user not in self._own]
        if node.target in _CONVOLUTIONS and len(users) == 1:
            apart = _CLAMP_APART * (users[0].target in _CLAMPS) + _SUM_APART * (users[0].target in _SUMS)
        cost = (_VALUE + apart) * math.prod(g.shape(node)) + 2 * _STEP
        return Plan(cost, lambda: self.call(aten.mean.dim, node, [2, 3], True))

    def _through_point(self, node: fx.Node, depth: int) -> list[Plan]:
        if node.target is not aten.conv2d.default:
            return []
        given = g.arguments(node)
        weight: fx.Node = given["weight"]
        source = g.data_input(node)
        point = (
            g.shape(weight)[2:] == (1, 1) and given["groups"] == 1 and set(given["stride"]) == {1}
            and set(given["padding"]) == {0} and g.value(source).dim() == 4
        )  # fmt: skip
        if not point:
            return []
        before = self._plan(source, depth - 1)
        cost = before.cost + _WEIGHT * math.prod(g.shape(weight)) + 2 * _STEP
        return [Plan(cost, lambda: self.call(aten.conv2d.default, before.build(), weight, given["bias"]))]

    def _of_sum(self, node: fx.Node, depth: int) -> list[Plan]:
        parts = _summands(node)
        if parts is None:
            return []
        a, b = (self._plan(part, depth - 1) for part in parts)
        cost = a.cost + b.cost + _STEP
        return [Plan(cost, lambda: self.call(aten.add.Tensor, a.build(), b.build()))]

    def _from_sum(self, node: fx.Node, depth: int) -> list[Plan]:
        found = []
        for user in node.users:
            parts = _summands(user)
            if parts is None or node not in parts or parts[0] is parts[1]:
                continue
            other = parts[0] if parts[1] is node else parts[1]
            whole = self._plan(user, 0)
            rest = self._plan(other, 0)
            found.append(Plan(whole.cost + rest.cost + _STEP, self._difference(whole, rest)))
        return found

    def _difference(self, whole: Plan, rest: Plan) -> Callable[[], fx.Node]:
        return lambda: self.call(aten.sub.Tensor, whole.build(), rest.build())


def _summands(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Of a plain sum of two values of one shape."""
    if node.target not in _SUMS or node.kwargs.get("alpha", 1) != 1:
        return None
    a, b = node.args[:2]
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
        return None
    same = g.shape(a) == g.shape(b) == g.shape(node) and g.value(a).dim() == 4
    return (a, b) if same and a.op != "get_attr" and b.op != "get_attr" else None


def work(body: fx.GraphModule) -> int:
    """Multiplications with an addition in convolutions and matrix products of one call."""
    total = 0
    for node in body.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in _CONVOLUTIONS:
            weight = g.arguments(node)["weight"]
            total += math.prod(g.shape(node)) * math.prod(g.shape(weight)[1:])
        elif node.target in _PRODUCTS:
            left = node.args[_PRODUCTS[node.target]]
            if isinstance(left, fx.Node):
                total += math.prod(g.shape(node)) * g.shape(left)[-1]
    return total
