"""What a monitor says: its findings in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from bnfold.drift.layout import words
from bnfold.drift.looks import Look
from bnfold.drift.state import Counts
from bnfold.errors import BnfoldError
from bnfold.finding import Finding


def bad_input(number: int) -> Finding:
    """A frame that came in broken."""
    return Finding(
        "BNF-D010",
        "error",
        "input",
        f"frame {number} has values that are not finite",
        {"frames": [number]},
        "look at the camera and at what prepares its frames",
    )


def bad_output(where: str, number: int) -> Finding:
    """A frame that broke inside the network."""
    return Finding(
        "BNF-D011",
        "error",
        where,
        f"frame {number} is finite and gives values that are not",
        {"frames": [number]},
        "bnfold diagnose says where they come from: statistics, weights or range",
    )


def unusable(name: str, error: BnfoldError, number: int) -> Finding:
    """A frame that could not be read, or that the network does not take."""
    return Finding(
        "BNF-D012",
        "error",
        "input",
        f"frame {number} ({name}) cannot be used: {error.what}",
        {"frames": [number], "code": error.code},
        error.fix or "look at what writes the frames",
    )


def slower(stride: int, before: int, time: float) -> Finding:
    """Kept frames are correlated."""
    return Finding(
        "BNF-D004",
        "info",
        "frames",
        f"frames that follow each other are correlated: one in {stride} distinct ones is kept from now on, "
        f"where it was one in {before}",
        {"stride": stride, "before": before, "time": time},
    )


def drift(
    tier: int,
    look: Look,
    names: Sequence[str],
    channels: Sequence[NDArray[Any]],
    arl: int,
    counts: Counts,
) -> Finding:
    """A window differs from what it is compared with.

    Args:
        tier: of the comparison.
        look: what it found.
        names, channels: of each layer, the last as the channel numbers of its columns.
        arl: kept frames between false alarms.
        counts: with this frame.
    """
    tests = look.tests
    index = next((i for i, test in enumerate(tests) if test.significant), None)
    if index is None:  # where things stand, and nothing that layers are on average
        assert look.picture is not None, "a look has something significant"
        test, where, blamed = look.picture, "input", [int(c) for c in look.picture.channels[:8]]
        said = words(look.picture.channels, [float(look.picture.shifts[c]) for c in look.picture.channels])
        how = ", ".join(said[:3]) or "where things stand in the picture"
    else:
        test, where = tests[index], names[index]
        blamed = [int(channels[index][c]) for c in test.channels[:8]]
        shifted = test.effect > test.limit or {"shift", "channel"} & set(test.by)
        how = f"by {test.effect:.2f} deviations" if shifted else "in how far its frames lie apart"
        where += f"[{', '.join(map(str, blamed))}]" if blamed else ""
    later = len(tests) if index is None else index + 1
    frame = counts.frames - 1
    return Finding(
        "BNF-A017",
        "error",
        where,
        f"the last {look.window} kept frames, up to frame {frame}, differ from training (tier {tier}): first "
        f"here, {how}; without drift this is said once in {arl:,} kept frames, or less often",
        {
            "tier": tier,
            "p": look.p,
            "window": look.window,
            "effect": test.effect,
            "by": list(test.by),
            "channels": blamed,
            "propagated": [names[i] for i in range(later, len(tests)) if tests[i].significant],
            "picture": look.picture is not None and look.picture.significant,
            "frame": frame,
            "kept": counts.kept,
            "arl": arl,
        },
        "look at the camera; bnfold drift on frames of now says more",
    )
