"""Pooling, averages, resizing and padding: each channel alone, over positions.

    P(x)[kept]  =  P(x[kept])

A constant channel stays constant where its whole frame comes out as one number: padding with other values, or
zeros that an average counts, end that at the border.
"""

from __future__ import annotations

import numpy as np
import torch

from bnfold import graph as g
from bnfold.fold.prune._base import Channels, Keep, Kind, Known, evaluate, frame, uniform, unknown
from bnfold.fold.rules import Operator, _average, _axes, _homogeneous

aten = torch.ops.aten

_PADS = frozenset({aten.pad.default, aten.constant_pad_nd.default})


class Spatial(Kind):
    operators = _average.OPERATORS | _homogeneous.MAXIMA | _PADS

    def channels(self, operator: Operator, known: Known) -> Channels | None:
        source = known.get(operator.data)
        axis = None if source is None else self._axis(operator, source.axis)
        if source is None or axis is None:
            return None
        size = len(source.constant)
        if not source.known.any():
            return unknown(axis, size)
        shape = list(g.shape(operator.data))
        if source.axis:
            shape[0] = 1  # every frame of the batch alike
        result = evaluate(operator, {operator.data: frame(source, tuple(shape))})
        return Channels(axis, np.where(source.known, uniform(result, axis, size), np.nan))

    @staticmethod
    def _axis(operator: Operator, axis: int) -> int | None:
        if operator.node.target in _PADS:
            return axis if axis < len(operator.input_shape) - len(operator.arguments["pad"]) // 2 else None
        return _axes.output_axis(operator, axis)

    def require(self, operator: Operator, known: Known, keep: Keep) -> None:
        together = keep[operator.node] | keep[operator.data]
        keep[operator.node] |= together
        keep[operator.data] |= together
