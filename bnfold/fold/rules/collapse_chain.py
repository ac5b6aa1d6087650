"""Two linear layers in a row become one, where that is less work.

    W2 (W1 x + b1) + b2  =  (W2 W1) x + (W2 b1 + b2)

Less work: W2 W1 has out2 * in1 entries, the two have out1 * in1 + out2 * out1. That is so where the layer
between is wide, as after a BatchNorm that stood between them has been folded. Convolutions of 1 x 1 are
linear layers at every position.

Refuses: a first layer that others read too; a product that is as large as the two; strides, padding and
groups; weights that depend on the input.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from bnfold import graph as g
from bnfold.affine import Array
from bnfold.fold.rules import _conv
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule

aten = torch.ops.aten


class CollapseChain(Rule):
    name = "collapse-chain"
    algebra = "W2(W1 x + b1) + b2 = (W2 W1)x + (W2 b1 + b2)"
    direction = "merge"
    operators = frozenset({aten.linear.default}) | _conv.PLAIN

    def match(self, operator: Operator, pending: Pending) -> Answer:
        first, second = operator.data, operator.node
        if first.target is not second.target or len(first.users) != 1:
            return Refusal("its input is not a layer of the same kind that only it reads")
        inner, outer = self._matrix(operator, first), self._matrix(operator, second)
        if inner is None or outer is None:
            return Refusal("one of the two is more than a matrix")
        (w1, b1), (w2, b2) = inner, outer
        if w2.shape[0] * w1.shape[1] >= w1.size + w2.size:
            return Refusal("one layer would be as much work as the two")
        product = w2 @ w1
        weights = {"weight": product.reshape(*product.shape, *[1] * (g.value(self._weight(second)).ndim - 2))}
        biases = [part for part in (None if b1 is None else w2 @ b1, b2) if part is not None]
        if biases:
            weights["bias"] = sum(biases[1:], biases[0])
        return Move(weights, host=first)

    @staticmethod
    def _weight(node: fx.Node) -> fx.Node:
        weight = g.arguments(node)["weight"]
        assert isinstance(weight, fx.Node)
        return weight

    def _matrix(self, operator: Operator, node: fx.Node) -> tuple[Array, Array | None] | None:
        """Weight (out, in) and bias of a linear layer or a plain 1 x 1 convolution."""
        call = g.arguments(node)
        weight = operator.value(call["weight"])
        bias = None if call["bias"] is None else operator.value(call["bias"])
        if weight is None or (bias is None and call["bias"] is not None):
            return None
        if node.target is aten.linear.default:
            return (weight, bias) if weight.ndim == 2 else None
        plain = (
            set(weight.shape[2:]) == {1}
            and call["groups"] == 1
            and set(call["stride"]) == {1}
            and (call["padding"] in ("same", "valid") or set(call["padding"]) == {0})
            and g.value(g.data_input(node)).ndim == weight.ndim
        )
        return (weight.reshape(weight.shape[:2]), bias) if plain else None

    def cases(self) -> list[Case]:
        def chain(*sizes: int, bias: bool = True) -> nn.Module:
            first, norm = nn.Linear(sizes[0], sizes[1], bias=bias), nn.BatchNorm1d(sizes[1])
            return nn.Sequential(first, norm, nn.Linear(sizes[1], sizes[2], bias=bias))

        def pointwise(padding: int = 0) -> nn.Module:
            first, norm = nn.Conv2d(3, 9, 1, padding=padding), nn.BatchNorm2d(9)
            return nn.Sequential(first, norm, nn.Conv2d(9, 4, 1))

        return [
            Case("wide between", lambda: chain(3, 16, 5), (2, 3), ("folded",)),
            Case("no biases", lambda: chain(4, 16, 4, bias=False), (4, 4), ("folded",)),
            Case("narrow between", lambda: chain(8, 2, 8), (2, 8), ("folded",)),
            Case("1 x 1 convolutions", pointwise, (2, 3, 4, 5), ("folded",)),
            Case("the first is padded", lambda: pointwise(1), (2, 3, 4, 5), ("folded",)),
        ]
