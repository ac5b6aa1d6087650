"""Deployment frames against training-like ones: real covariate shift.

Asked only where the stored statistics describe the training-like frames: else what differs is the statistics.
Both sets go through the network in eval mode. What the first layer reads carries over to the next, so the
first layer that parts is where the frames differ, and the others follow.
"""

from __future__ import annotations

from bnfold.finding import Finding
from bnfold.statistics.causes import SHIFTED
from bnfold.statistics.diagnose import blame
from bnfold.statistics.diagnose.gap import Gap, between
from bnfold.statistics.diagnose.passes import Pass
from bnfold.statistics.diagnose.wording import amount, in_sigmas, place, rest


def shifts(held_out: Pass, deployed: Pass) -> dict[str, Gap]:
    """By call, how far the deployment frames are from the training-like ones, in the deviations of these."""
    names = [
        name
        for name, reading in held_out.readings.items()
        if name in deployed.readings and not reading.uses_batch
    ]
    return between(held_out, deployed, [(name, name) for name in names])


def shift_finding(gaps: dict[str, Gap], held_out: Pass, deployed: Pass) -> list[Finding]:
    """BNF-A017 at the first layer that parts, or nothing."""
    name = blame.first(gaps)
    if name is None:
        return []
    gap, off = gaps[name], blame.parted(gaps)
    channels = gap.channels or [gap.worst]
    return [
        Finding(
            SHIFTED.code,
            "error",
            place(name, gap),
            f"the deployment frames are not like the training-like ones, which the statistics fit: "
            f"{len(channels)} of {len(gap.parted)} channels differ{rest(off, len(gaps))}, the surest by "
            f"{amount(gap)} ({deployed.frames} and {held_out.frames} frames)",
            {
                "layer": held_out.readings[name].owner,
                "channels": channels,
                "count": len(gap.parted),
                **in_sigmas(gap),
                "layers": off,
                "frames": held_out.frames,
                "deployment_frames": deployed.frames,
            },
            "find what changed in the frames (camera, light, scale, preprocessing) and undo it, or collect "
            "such frames and train on them; bnfold recalibrate --prior N adapts the statistics to them",
        )
    ]
