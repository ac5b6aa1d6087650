"""Operators that work on each element alone, and joins of values element by element.

    f(x, y)[kept]  =  f(x[kept], y[kept])

All operands that have the channels keep the same ones, as the branches of a residual stream do. A channel of
the result is constant where all operands are, where one factor is 0, and where a clamp's bounds meet.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from bnfold import graph as g
from bnfold.affine import Array
from bnfold.fold.body import Body
from bnfold.fold.prune._base import (
    Channels,
    Keep,
    Kind,
    Known,
    Mask,
    data_inputs,
    evaluate,
    frame,
    uniform,
)
from bnfold.fold.rules import Operator, _monotone

aten = torch.ops.aten

_ACTIVATIONS = frozenset(
    {
        aten.leaky_relu.default, aten.prelu.default, aten.elu.default, aten.selu.default, aten.celu.default,
        aten.gelu.default, aten.silu.default, aten.mish.default, aten.hardswish.default,
        aten.hardsigmoid.default, aten.sigmoid.default, aten.tanh.default, aten.softplus.default,
        aten.log_sigmoid.default, aten.hardshrink.default, aten.softshrink.default,
    }
)  # fmt: skip
_FUNCTIONS = frozenset(
    {
        aten.abs.default, aten.neg.default, aten.exp.default, aten.sqrt.default, aten.rsqrt.default,
        aten.square.default, aten.pow.Tensor_Scalar, aten.erf.default, aten.sin.default, aten.cos.default,
        aten.reciprocal.default, aten.rsub.Scalar,
    }
)  # fmt: skip
_PRODUCTS = frozenset({aten.mul.Tensor, aten.mul.Scalar})
_ARITHMETIC = frozenset(
    {
        aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar,
        aten.div.Tensor, aten.div.Scalar,
    }
)  # fmt: skip


class Pointwise(Kind):
    operators = _ACTIVATIONS | _FUNCTIONS | _PRODUCTS | _ARITHMETIC | _monotone.CLAMPS

    def channels(self, operator: Operator, known: Known) -> Channels | None:
        node, rank = operator.node, len(operator.output_shape)
        inputs = data_inputs(operator)
        places = {known[x].axis - g.value(x).ndim for x in inputs if x in known}
        if len(places) != 1 or not all(g.value(x).is_floating_point() for x in (node, *inputs)):
            return None
        axis = rank + places.pop()
        size = operator.output_shape[axis]
        if size is None or (node.target is aten.prelu.default and axis != 1):
            return None
        if not all(g.value(x).is_floating_point() for x in _parameters(operator)):
            return None
        return Channels(axis, self._constants(operator, known, axis, size))

    def _constants(self, operator: Operator, known: Known, axis: int, size: int) -> Array:
        rank = len(operator.output_shape)
        alive = np.zeros(size, dtype=bool)
        values: dict[fx.Node, torch.Tensor] = {}
        for x in data_inputs(operator):
            own = g.value(x).ndim
            if x in known:
                alive |= ~known[x].known
                shape = [1] * own
                shape[known[x].axis] = len(known[x].constant)
                values[x] = frame(known[x], tuple(shape))
            else:
                alive |= True
                values[x] = torch.zeros([1] * own, dtype=torch.float64)
        fixed = self._fixed(operator, values, known, rank, axis, size)
        if alive.all():
            return fixed
        found = np.where(alive, np.nan, uniform(evaluate(operator, values), axis, size))
        return np.where(np.isnan(fixed), found, fixed)

    @staticmethod
    def _fixed(
        operator: Operator,
        values: dict[fx.Node, torch.Tensor],
        known: Known,
        rank: int,
        axis: int,
        size: int,
    ) -> Array:
        """The channels that are constant whatever some operand is: times 0, or clamped to one number."""
        target, fixed = operator.node.target, np.full(size, np.nan)
        if target in _PRODUCTS:
            for factor in operator.node.args[:2]:
                if isinstance(factor, fx.Node) and factor in known:
                    shape = tuple(values[factor].shape)
                    number: Array = frame(known[factor], shape, otherwise=1.0).numpy()
                elif isinstance(factor, fx.Node):
                    constant = operator.value(factor)
                    number = np.ones(()) if constant is None else constant
                else:
                    number = np.asarray(factor, dtype=np.float64)
                wide = torch.from_numpy(np.array(number)).reshape(
                    [1] * (rank - number.ndim) + [*number.shape]
                )
                fixed[uniform(wide, axis, size) == 0] = 0.0
        if target in _monotone.CLAMPS and _has_bounds(operator):
            bounds = _monotone.bounds(operator, rank, axis, size)
            if bounds is not None:
                fixed = np.where(bounds[0] == bounds[1], bounds[0], fixed)
        return fixed

    def require(self, operator: Operator, known: Known, keep: Keep) -> None:
        node, axis = operator.node, known[operator.node].axis
        size, rank = len(keep[node]), len(operator.output_shape)
        members = [keep[node]]
        for x in data_inputs(operator):
            own = axis - rank + g.value(x).ndim
            wide = own >= 0 and g.value(x).shape[own] == size
            if x not in known:
                if wide:
                    keep[node][:] = True
            elif wide:
                members.append(keep[x])
            else:
                keep[x][:] = True
        together: Mask = np.logical_or.reduce(members)
        for member in members:
            member |= together

    def cut(self, operator: Operator, known: Known, keep: Keep, body: Body) -> None:
        node, axis = operator.node, known[operator.node].axis
        kept, rank = keep[node], len(operator.output_shape)
        weights: dict[str, Array] = {}
        for name, parameter in operator.arguments.items():
            value = operator.value(parameter) if isinstance(parameter, fx.Node) else None
            if value is None or value.ndim == 0:
                continue
            own = 0 if node.target is aten.prelu.default else axis - rank + value.ndim
            if own >= 0 and value.shape[own] == len(kept) and len(kept) > 1:
                weights[name] = np.compress(kept, value, own)
        body.set_weights(node, weights)


def _parameters(operator: Operator) -> list[fx.Node]:
    """The constant tensors among the arguments."""
    return [x for x in operator.node.all_input_nodes if operator.value(x) is not None]


def _has_bounds(operator: Operator) -> bool:
    """Whether a maximum or minimum is one with a constant: of two values it has no bounds."""
    return all(operator.value(x) is not None for x in operator.node.all_input_nodes[1:])
