"""Constant frames: what a shift, or a map, becomes behind an operator that is linear in its data."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import fx

from bnfold.affine import Affine, Array
from bnfold.fold.rules._base import Operator, Pending


def frame(operator: Operator, pending: Pending) -> Array | None:
    """Shift and map of an affine before the operator, at every position: (channels, *spatial).

    None where the size is not fixed, or the channels are not on the second axis.
    """
    spatial = operator.input_shape[2:]
    if pending.axis != 1 or any(size is None for size in spatial):
        return None
    affine = pending.affine
    flat = np.broadcast_to(
        affine.shift.reshape(-1, *[1] * len(spatial)), (affine.channels, *[size or 0 for size in spatial])
    )
    return flat if affine.map is None else flat + affine.map


def through(operator: Operator, values: Array, **changed: Any) -> Array | None:
    """The operator's result in float64 on one constant frame (channels, *spatial); so is the result.

    None where another argument depends on the network's input.

    Args:
        changed: other values for arguments of the operator; arrays stand for tensors.
    """
    call = {**operator.arguments, **{name: _tensor(value) for name, value in changed.items()}}
    call[next(iter(call))] = _tensor(values)[None]
    if any(isinstance(argument, fx.Node) for argument in call.values()):
        return None
    target: Any = operator.node.target
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # padding='same' with an even kernel warns of a copy
        result: torch.Tensor = target(**call)
    return result[0].numpy()


def behind(scale: Array, values: Array) -> Affine:
    """scale * x + values, where values that are the same at every position are a shift."""
    flat = values.reshape(len(values), -1)
    if (flat == flat[:, :1]).all():
        return Affine(scale, flat[:, 0].copy())
    return Affine(scale, np.zeros(len(values)), values)


def _tensor(value: Any) -> Any:
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
