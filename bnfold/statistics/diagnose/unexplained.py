"""Gaps that the file does not explain: what the frames alone show of their cause."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics import causes
from bnfold.statistics.causes import Cause
from bnfold.statistics.diagnose import blame
from bnfold.statistics.diagnose.seen import Seen
from bnfold.statistics.diagnose.wording import amount, in_sigmas, place, rest
from bnfold.statistics.subject import Subject

_RECALIBRATE = "reset the statistics and estimate them anew: bnfold recalibrate"

_WITHIN_FIT, _WITHIN_SHARE = 0.8, 0.15


def cause_of(calls: list[str], seen: Seen, subject: Subject) -> Finding:
    """The cause of gaps that the file does not explain."""
    readings = [seen.trained.readings[name] for name in seen.own]
    several = [name for name in calls if (gap := seen.sites.get(seen.owner(name))) and gap.parted.any()]
    if several and several[0] == calls[0]:
        sites = seen.trained.calls_of(seen.owner(calls[0]))
        apart = seen.sites[seen.owner(calls[0])]
        return _finding(
            causes.SHARED, calls, seen,
            f"one BatchNorm is used at {len(sites)} places whose data differ by {amount(apart)}",
            "train with a BatchNorm for each place",
            sites=[site.name for site in sites], apart=in_sigmas(apart),
        )  # fmt: skip
    initial = blame.initial_value(readings) or _counted(calls, seen, subject)
    if initial is not None:
        heavy = "" if initial.weight >= 0.3 else "warning"
        finding = _finding(
            causes.UNCONVERGED, calls, seen,
            f"the initial mean 0 and variance 1 still weigh {initial.weight:.2g} in the running averages: "
            "that "
            f"explains {1 - initial.left:.0%} of what they are off by",
            "bnfold recalibrate --debias takes the initial value out; bnfold recalibrate --samples "
            "measures anew",
            weight=initial.weight, left=initial.left,
        )  # fmt: skip
        return replace(finding, severity="warning") if heavy else finding
    if _weights_changed(calls, seen, subject):
        return _finding(
            causes.STALE, calls, seen,
            "the statistics are those of the other checkpoint, bit for bit, and the weights are not: they "
            "were "
            "averaged, pruned or tuned without new statistics",
            _RECALIBRATE,
        )  # fmt: skip
    within = blame.within_batches(readings)
    if within is not None and within.fit >= _WITHIN_FIT and _WITHIN_SHARE <= within.share <= 1.5:
        return _finding(
            causes.TINY_BATCHES, calls, seen,
            f"{within.share:.0%} of the variance between frames is missing from the running variances: "
            "training "
            "batches were too small, or their frames too alike",
            f"{_RECALIBRATE} with shuffled frames; for batches of a few frames train with GroupNorm",
            missing=within.share, fit=within.fit,
        )  # fmt: skip
    group = causes.UNREPRESENTATIVE
    return _finding(
        group, calls, seen,
        "the statistics do not describe what these weights make of training-like frames",
        _RECALIBRATE,
        separated_by=group.separated_by,
    )  # fmt: skip


def _counted(calls: list[str], seen: Seen, subject: Subject) -> blame.InitialValue | None:
    """The initial value at the weight that the number of updates tells: little of it is much for a variance
    that is small itself."""
    layers = [subject.layer(seen.owner(name)) for name in calls]
    weights = {layer and subject.initial_weight(layer) for layer in layers}
    weight = weights.pop() if len(weights) == 1 else None
    if not weight:
        return None
    return blame.initial_value([seen.trained.readings[name] for name in calls], weight)


def _finding(cause: Cause, calls: list[str], seen: Seen, what: str, remedy: str, **more: Any) -> Finding:
    name = calls[0]
    gap = seen.own[name]
    channels = gap.channels or [gap.worst]
    return Finding(
        cause.code,
        "error",
        place(name, gap),
        f"{what}; {len(channels)} of {len(gap.parted)} channels are off{rest(calls, len(seen.own))}, the "
        "surest "
        f"by {amount(gap)} ({gap.frames} frames)",
        {
            "layer": seen.owner(name),
            "channels": channels,
            "count": len(gap.parted),
            **in_sigmas(gap),
            "layers": blame.layers_of(calls, seen.trained),
            "frames": gap.frames,
            **more,
        },
        remedy,
    )


def _weights_changed(calls: list[str], seen: Seen, subject: Subject) -> bool:
    """Whether another checkpoint has these very statistics, and other weights."""
    other = subject.against
    if other is None:
        return False
    for owner in blame.layers_of(calls, seen.trained):
        here, there = subject.layer(owner), other.layer(owner)
        if here is None or there is None or here.mean is None or there.mean is None:
            return False
        assert here.variance is not None
        same = there.variance is not None and np.array_equal(here.variance, there.variance)
        if not (same and np.array_equal(here.mean, there.mean)):
            return False
    theirs = dict(other.parameters())
    pairs = [(values, theirs[name]) for name, values in subject.parameters() if name in theirs]
    return any(left.shape == right.shape and bool((left != right).any()) for left, right in pairs)


def accumulated(seen: Seen) -> list[Finding]:
    """Statistics that fit one by one, and not one behind the other."""
    name = blame.first(seen.carried)
    if name is None:
        return []
    gap = seen.carried[name]
    group = causes.UNREPRESENTATIVE
    return [
        Finding(
            group.code,
            "error",
            place(name, gap),
            "every layer's statistics fit what it reads in train mode, but small errors add up: in eval "
            "mode "
            f"{int(gap.suspect.sum())} of {len(gap.parted)} channels are off here, the surest by "
            f"{amount(gap)} "
            f"({gap.frames} frames)",
            {
                "layer": seen.owner(name),
                "channels": gap.channels or [gap.worst],
                "count": len(gap.parted),
                **in_sigmas(gap),
                "frames": gap.frames,
                "mode": "eval",
                "separated_by": group.separated_by,
            },
            "estimate the statistics layer by layer: bnfold recalibrate --sequential",
        )
    ]
