"""What the two rules for padding share: what is padded with, and what that makes of a constant frame."""

from __future__ import annotations

import math

import numpy as np
import torch

from bnfold.affine import Array
from bnfold.fold.rules import _frames
from bnfold.fold.rules._base import Operator, Pending

aten = torch.ops.aten

OPERATORS = frozenset({aten.pad.default, aten.constant_pad_nd.default})


def pads_channels(operator: Operator, pending: Pending) -> bool:
    """Whether the channels are among the axes that are padded."""
    padded = len(operator.arguments["pad"]) // 2
    return pending.axis >= len(operator.input_shape) - padded


def constant(operator: Operator) -> float | None:
    """What it pads with; None where it repeats values of its input."""
    if operator.arguments.get("mode", "constant") != "constant":
        return None
    return float(operator.arguments.get("value") or 0.0)


def changed(old: float, new: float) -> dict[str, float]:
    """The setting that makes it pad with another value."""
    return {} if new == old else {"value": new}


def frame(operator: Operator, pending: Pending, border: Array) -> Array | None:
    """An affine's shift and map, padded with one value per channel: (channels, *spatial).

    None where the size is not fixed, or the value that it pads with now is infinite.
    """
    within, value = _frames.frame(operator, pending), constant(operator)
    if within is None or value is None or not math.isfinite(value):
        return None
    padded = _frames.through(operator, within, value=0.0)
    around = _frames.through(operator, np.zeros_like(within), value=1.0)
    if padded is None or around is None:
        return None
    return np.where(around == 1.0, border.reshape(-1, *[1] * (within.ndim - 1)), padded)
