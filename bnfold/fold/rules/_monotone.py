"""What the rules for activations and max pooling share: which operator does what to its input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnfold.affine import Array
from bnfold.fold.rules._base import Operator

aten = torch.ops.aten

MAX_POOLS = frozenset({aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default})
RELUS = frozenset({aten.relu.default})
LEAKY = frozenset({aten.leaky_relu.default, aten.prelu.default})
CLAMPS = frozenset(
    {
        aten.relu.default,
        aten.relu6.default,
        aten.hardtanh.default,
        aten.clamp.default,
        aten.clamp_min.default,
        aten.clamp_max.default,
        aten.clamp.Tensor,
        aten.maximum.default,
        aten.minimum.default,
    }
)


def bounds(operator: Operator, rank: int, axis: int, channels: int) -> tuple[Array, Array] | None:
    """Lower and upper bound of a clamp per channel of ``axis``; None where a bound is no constant of them."""
    arguments, target = operator.arguments, operator.node.target
    low: Any = -np.inf
    high: Any = np.inf
    if target is aten.relu.default:
        low = 0.0
    elif target is aten.relu6.default:
        low, high = 0.0, 6.0
    elif target is aten.hardtanh.default:
        low, high = arguments["min_val"], arguments["max_val"]
    elif target is aten.maximum.default:
        low = arguments["other"]
    elif target is aten.minimum.default:
        high = arguments["other"]
    else:
        low, high = arguments.get("min", -np.inf), arguments.get("max", np.inf)
    found = [
        _per_channel(operator, bound, default, rank, axis, channels)
        for bound, default in ((low, -np.inf), (high, np.inf))
    ]
    if found[0] is None or found[1] is None:
        return None
    return found[0], found[1]


def _per_channel(
    operator: Operator, bound: Any, default: float, rank: int, axis: int, channels: int
) -> Array | None:
    if bound is None:
        bound = default
    if isinstance(bound, int | float):
        return np.full(channels, float(bound))
    value = operator.value(bound)
    if value is None or value.ndim > rank:
        return None
    wide = value.reshape((1,) * (rank - value.ndim) + value.shape)
    if any(size != 1 for k, size in enumerate(wide.shape) if k != axis):
        return None
    return np.broadcast_to(wide.reshape(-1), (channels,)).astype(np.float64)


def on_axis(values: Array, rank: int, axis: int) -> Array:
    """Shaped to broadcast along ``axis``."""
    return values.reshape([-1 if k == axis else 1 for k in range(rank)])


def slopes(operator: Operator, channels: int) -> Array | None:
    """The slope for negative numbers of a leaky relu or prelu, per channel; None for another operator.

    None as well where it is computed from the network's input.
    """
    if operator.node.target is aten.leaky_relu.default:
        return np.full(channels, float(operator.arguments["negative_slope"]))
    weight = operator.constant("weight") if operator.node.target is aten.prelu.default else None
    return None if weight is None else np.broadcast_to(weight.reshape(-1), (channels,))


def turned(slope: Array, negative: NDArray[np.bool_]) -> Array:
    """The slope of the mirrored function where ``negative``: f_a(-x) = -a f_{1/a}(x)."""
    return np.where(negative, 1 / np.where(negative, slope, 1.0), slope)
