"""Concatenations: the result keeps of each part what the part keeps.

    [x, y][kept]  =  [x[kept], y[kept]]

Joined along another axis, all parts keep the same channels, and one is constant where it is the same constant
in every part.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from torch import fx

from bnfold import graph as g
from bnfold.affine import Array
from bnfold.fold.prune._base import Channels, Keep, Kind, Known
from bnfold.fold.rules import Operator, _cat


class Joins(Kind):
    operators = _cat.OPERATORS

    def channels(self, operator: Operator, known: Known) -> Channels | None:
        parts, joined = _parts(operator), _cat.joined_axis(operator)
        axes = {known[part].axis for part in parts if part in known}
        if not axes or any(g.value(part).ndim != len(operator.output_shape) for part in parts):
            return None
        along = joined in axes
        axis = joined if along else min(axes)
        sizes = [g.value(part).shape[axis] for part in parts]
        if not all(isinstance(size, int) for size in sizes):
            return None
        constants: list[Array] = [
            known[part].constant if part in known and known[part].axis == axis else np.full(size, np.nan)
            for part, size in zip(parts, sizes, strict=True)
        ]
        if along:
            return Channels(axis, np.concatenate(constants))
        same = np.all([constant == constants[0] for constant in constants], axis=0)
        return Channels(axis, np.where(same, constants[0], np.nan))

    def require(self, operator: Operator, known: Known, keep: Keep) -> None:
        axis, start = known[operator.node].axis, 0
        along = axis == _cat.joined_axis(operator)
        for part in _parts(operator):
            size = g.value(part).shape[axis]
            segment = keep[operator.node][start : start + size]
            if part in known and known[part].axis == axis:
                segment |= keep[part]
                keep[part] |= segment
            else:
                segment[:] = True
                if part in known:
                    keep[part][:] = True
            start += size if along else 0


def _parts(operator: Operator) -> list[fx.Node]:
    return cast(list[fx.Node], list(operator.arguments["tensors"]))
