"""The weights that the device gets: their range by output channel, which is what a smaller type suffers from.

An int8 weight tensor with one scale resolves the smallest channel with 127 / range levels, where range is the
largest channel's max|w| over the smallest's. A float16 one holds numbers up to 65504.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import ops

from bnfold import graph as g
from bnfold.affine import Array
from bnfold.finding import Finding
from bnfold.fold import FoldResult
from bnfold.fold.constants import Constants
from bnfold.fold.rules._conv import PLAIN, TRANSPOSED
from bnfold.statistics.causes import HALF_OVERFLOW
from bnfold.statistics.checks import channel_list
from bnfold.statistics.checks.half_range import LARGEST

_WEIGHT_OF = {ops.aten.linear.default, *PLAIN, *TRANSPOSED}


@dataclass(frozen=True)
class FoldedWeights:
    """One linear layer's weights after folding.

    Attributes:
        layer: its name, as in the fold's report.
        folded: whether a BatchNorm went into it.
        size: max|w| per output channel, shape (channels,).
    """

    layer: str
    folded: bool
    size: Array

    @property
    def largest(self) -> float:
        return float(self.size.max(initial=0.0))

    @property
    def range(self) -> float | None:
        """The largest channel's max|w| over the smallest's, channels of zeros left out; None without any."""
        some = self.size[self.size > 0]
        return float(some.max() / some.min()) if len(some) else None

    def to_json(self, *, channels: bool = False) -> dict[str, Any]:
        """Plain JSON types; with ``channels`` max|w| of every channel as well."""
        document: dict[str, Any] = {
            "layer": self.layer,
            "folded": self.folded,
            "channels": len(self.size),
            "largest": self.largest,
            "channel_range": self.range,
        }
        return document | ({"by_channel": self.size.tolist()} if channels else {})


def folded_weights(result: FoldResult) -> list[FoldedWeights]:
    """Of every linear layer with constant weights, in execution order."""
    body = result.module.body
    constants = Constants(body)
    into = {name for entry in result.report.batch_norms for name in entry.into}
    found = []
    for node in body.graph.nodes:
        if node.op != "call_function" or node.target not in _WEIGHT_OF:
            continue
        arguments = g.arguments(node)
        weight = constants.value(arguments["weight"])
        if weight is None or not np.isfinite(weight).all():
            continue
        groups = int(arguments.get("groups", 1)) if node.target in TRANSPOSED else 0
        name = g.layer_name(node)
        found.append(FoldedWeights(name, name in into, _by_output(weight, groups)))
    return found


def _by_output(weight: Array, groups: int) -> Array:
    """max|w| per output channel; ``groups`` of a transposed convolution, (in, out / groups, ...), else 0."""
    size = np.abs(weight)
    if not groups:
        rows: Array = size.reshape(len(size), -1).max(axis=1, initial=0.0)
        return rows
    per_group = size.reshape(groups, size.shape[0] // groups, size.shape[1], -1)
    result: Array = per_group.max(axis=(1, 3), initial=0.0).reshape(-1)
    return result


def beyond_half(weights: list[FoldedWeights]) -> list[Finding]:
    """A warning for every layer whose weights half precision cannot hold."""
    found = []
    for each in weights:
        bad = np.flatnonzero(each.size > LARGEST)
        if len(bad):
            found.append(
                Finding(
                    HALF_OVERFLOW.code,
                    "warning",
                    f"{each.layer}.weight{channel_list(bad)}",
                    f"{len(bad)} of {len(each.size)} channels have folded weights up to {each.largest:.3g}, "
                    f"beyond {LARGEST:.0f}, which is as far as half precision goes",
                    {"channels": bad.tolist(), "count": len(each.size), "largest": each.largest},
                    "keep this layer in float32, or recalibrate its BatchNorm",
                )
            )
    return found
