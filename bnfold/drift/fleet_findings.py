"""A fleet's verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnfold.drift.scale import Scale
from bnfold.drift.tier0 import LayerTest
from bnfold.drift.tiers import LEAST_FRAMES
from bnfold.finding import Finding
from bnfold.wording import count

if TYPE_CHECKING:
    from bnfold.drift.fleet import DeviceDrift


def _against(tier: int) -> str:
    return "held-out frames" if tier else "the population statistics"


def stands_out(device: DeviceDrift, tests: Sequence[LayerTest], tier: int) -> Finding:
    """A device that differs from training."""
    seen = [
        (layer, test) for layer, test in zip(device.layers, tests or (), strict=False) if test.significant
    ]
    said = f"{device.name} differs from training"
    if seen:
        said += (
            f" in its last {device.window} kept frames, against {_against(tier)}: first in "
            f"{seen[0][0].name}, by {seen[0][1].effect:.2f} deviations"
        )
    if device.alarmed:
        said += f"{', and' if seen else ':'} its own monitor gave an alarm"
    return Finding(
        "BNF-A017",
        "error",
        device.blamed or "frames",
        said,
        {
            "device": device.name,
            "alarmed": device.alarmed,
            "window": device.window,
            "effect": seen[0][1].effect if seen else None,
            "layers": [layer.name for layer, _ in seen],
        },
        "look at this device's camera; bnfold drift on frames of it says more",
    )


def as_one(tests: Sequence[LayerTest], scale: Scale, devices: int, frames: int) -> Finding:
    """Devices of which none stands out, and that differ from training together."""
    seen = [(layer, test) for layer, test in zip(scale.layers, tests, strict=True) if test.significant]
    layer, test = seen[0]
    alone = ", which no window shows alone" if devices > 1 else ""
    return Finding(
        "BNF-A017",
        "error",
        layer.name,
        f"{count(devices, 'device')} together differ from training in {frames} kept frames, against "
        f"{_against(scale.tier)}{alone}: first here, by {test.effect:.2f} deviations",
        {
            "devices": devices,
            "window": frames,
            "effect": test.effect,
            "layers": [item.name for item, _ in seen],
        },
        "bnfold drift on frames of some devices says what changed",
    )


def broken(device: DeviceDrift) -> list[Finding]:
    """Frames with NaN or infinity, and frames that could not be used."""
    kinds = (
        ("BNF-D010", "input", device.counts.bad_inputs, "had values that are not finite"),
        ("BNF-D011", "outputs", device.counts.bad_outputs, "gave values that are not finite"),
        ("BNF-D012", "input", device.counts.unusable, "could not be used"),
    )
    return [
        _broken_frames(code, where, device, number, words) for code, where, number, words in kinds if number
    ]


def _broken_frames(code: str, where: str, device: DeviceDrift, number: int, words: str) -> Finding:
    return Finding(
        code,
        "error",
        where,
        f"{number:,} of {count(device.counts.frames, 'frame')} of {device.name} {words}",
        {"device": device.name, "count": number, "frames": device.counts.frames},
        "bnfold monitor on this device names the frames",
    )


def merged_before(device: DeviceDrift) -> Finding:
    """A state that is itself of many devices."""
    return Finding(
        "BNF-D013",
        "info",
        "frames",
        f"{device.name} is of {count(device.counts.devices, 'device')}: it has their sums, and no window to "
        "test",
        {"device": device.name, "devices": device.counts.devices},
        "give the devices' own states to know which of them stands out",
    )


def thin(frames: int) -> Finding:
    """Too little to judge."""
    return Finding(
        "BNF-D001",
        "info",
        "frames",
        f"no verdict: the states hold {frames} kept frames; {LEAST_FRAMES} are needed",
        {"frames": frames},
        "wait for more frames",
    )


def unseen(tests: Sequence[LayerTest], frames: int) -> Finding:
    """No drift, and what could have gone unseen."""
    largest = max((test.detectable for test in tests), default=math.inf)
    said = f"up to {largest:.2f} deviations" if math.isfinite(largest) else "of any size"
    return Finding(
        "BNF-D006",
        "info",
        "frames",
        f"no drift seen in {frames} kept frames of all devices together; a shift {said} (root mean square "
        "over the channels of one layer) could have gone unseen",
        {"frames": frames, "detectable": largest if math.isfinite(largest) else None},
        "with more frames smaller shifts are seen",
    )
