"""Which held-out frames a monitor can deal with those of its windows: enough, and no two of one scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bnfold.drift import pictures
from bnfold.drift.baseline import Baseline
from bnfold.drift.blocks import blocks_of
from bnfold.drift.reference import Reference
from bnfold.drift.tiers import LEAST_BASELINE
from bnfold.errors import UsageError
from bnfold.wording import count


def check_baseline(frames: int, finite: int | None = None) -> None:
    """Refuse held-out frames that are too few: against them nothing would ever be drift.

    Args:
        frames: that count.
        finite: of which they are the independent ones; None: those that count are all that are finite.

    Raises:
        UsageError: BNF-U143.
    """
    if frames >= LEAST_BASELINE:
        return
    if finite is None:
        what = f"the baseline has {count(frames, 'finite frame')}, and {LEAST_BASELINE} are needed"
    else:
        worth = count(frames, "independent one")
        what = f"the baseline's {count(finite, 'frame')} are worth {worth}, and {LEAST_BASELINE} are needed"
    raise UsageError(
        "BNF-U143",
        what,
        where="baseline",
        fix="give 50 to 200 held-out frames of different scenes, or leave it out",
    )


def independent(reference: Reference, given: Baseline | None) -> Baseline | None:
    """The given baseline, or else the recorded one, without frames that tell what their neighbours told.

    Args:
        reference: of the network.
        given: taps of held-out frames; None: the recorded ones.

    Returns:
        None where there are none, or where the recorded ones are worth less than 20 independent frames. Its
        layout is left out where pictures that follow each other are alike though their taps are not.

    Raises:
        UsageError: BNF-U143 a given one is worth too few.
    """
    known = reference.baseline if given is None else given
    if known is None:
        return None
    if given is not None:
        check_baseline(given.frames)
    sizes = [int(layer.alive.sum()) for layer in reference.layers]
    starts = blocks_of(None, known.values.astype(np.float32), sizes).starts
    if len(starts) < known.frames:
        if given is not None:
            check_baseline(len(starts), known.frames)
        if len(starts) < LEAST_BASELINE:
            return None
        known = known.take(starts)
    if known.layout is not None and not pictures.independent(known.layout.values.astype(np.float32)):
        return replace(known, layout=None)
    return known
