"""How gaps and places are put into words and evidence: the same wherever one is told of."""

from __future__ import annotations

import math
from typing import Any

from bnfold.statistics.checks import channel_list
from bnfold.statistics.diagnose.gap import Gap
from bnfold.statistics.layers import MEAN

__all__ = ["amount", "channel_list", "in_sigmas", "place", "rest", "times"]


def amount(gap: Gap) -> str:
    """The worst channel: ``0.63 standard deviations in the mean``, ``a factor of 2.4 in the ...``."""
    channel = gap.worst
    mean, scale = abs(float(gap.mean[channel])), float(gap.scale[channel])
    if gap.tensor == MEAN:
        return f"{mean:.2g} standard deviations in the mean"
    return f"a factor of {times(scale)} in the standard deviation"


def times(log: float) -> str:
    """A factor of at least 1 from its logarithm."""
    return f"{math.exp(min(abs(log), 700.0)):.2g}"


def in_sigmas(gap: Gap) -> dict[str, Any]:
    """Evidence: the worst channel's numbers."""
    channel = gap.worst
    return {
        "worst_channel": channel,
        "mean_gap": _number(gap.mean[channel]),
        "mean_error": _number(gap.mean_error[channel]),
        "scale_gap": _number(gap.scale[channel]),
        "scale_error": _number(gap.scale_error[channel]),
        "at_least": _number(gap.certain[channel]),
    }


def place(name: str, gap: Gap) -> str:
    """``layer1.0.bn2.running_var[7]``: the tensor that is furthest off, and the channels."""
    channels = gap.channels or [gap.worst]
    return f"{name}.{gap.tensor}{channel_list(channels)}" if name else f"{gap.tensor}{channel_list(channels)}"


def rest(names: list[str], total: int, noun: str = "BatchNorm") -> str:
    """``, and so it is in 8 more of 13 BatchNorms``; empty for the only one."""
    return f", and {len(names) - 1} more of {total} {noun}s" if len(names) > 1 else ""


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
