"""Repetitions of maps: the TFLite converter orders their axes anew, and leaves the counts as they were."""

from __future__ import annotations

import torch

from bnfold.export.rewrite import Call, Replacement, Rewrite

aten = torch.ops.aten

_MAP_AXES = 4  # what has fewer is not ordered anew


def repeat(call: Call) -> Replacement | None:
    """An axis of size 1 is expanded, one of another size joined to itself; counts may add axes in front."""
    counts = list(call["repeats" if "repeats" in call.arguments else "dims"])
    rank = call["self"].dim()
    if max(len(counts), rank) < _MAP_AXES or min(counts) < 1 or max(counts) == 1:
        return None
    counts = [1] * (rank - len(counts)) + counts

    def function(x: torch.Tensor) -> torch.Tensor:
        x = x.reshape([1] * (len(counts) - rank) + list(x.shape))
        x = x.expand([count if size == 1 else size for size, count in zip(x.shape, counts, strict=True)])
        for axis, count in enumerate(counts):
            if call.result.shape[axis] != x.shape[axis]:
                x = torch.cat([x] * count, axis)
        return x

    return Replacement(function)


REWRITES = (Rewrite("repeat", (aten.repeat.default, aten.tile.default), repeat),)
