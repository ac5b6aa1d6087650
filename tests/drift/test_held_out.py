"""Held-out frames that a monitor may deal with those of its windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bnfold.drift import Baseline, Monitor, Reference
from bnfold.drift.held_out import independent
from bnfold.errors import UsageError
from tests.drift.test_monitor import baseline, drawn, feed, reference

__all__ = ["reference"]


def slow(scenes: int, seed: int, times: int = 8) -> Baseline:
    """Every scene so many times over, with a little noise."""
    rows = np.repeat(drawn(scenes, seed), times, axis=0)
    return Baseline.of(rows + np.random.default_rng(seed).normal(scale=0.01, size=rows.shape))


def test_frames_of_different_scenes_all_count(reference: Reference) -> None:
    given = baseline(count=100)
    assert independent(reference, given) is given
    assert independent(replace(reference, baseline=given), None) is given
    assert independent(reference, None) is None


def test_of_one_scene_one_counts(reference: Reference) -> None:
    given = slow(60, 2)
    found = independent(reference, given)
    assert found is not None
    assert 20 <= found.frames <= 75
    assert found.low is given.low
    assert {row.tobytes() for row in found.codes} <= {row.tobytes() for row in given.codes}


def test_too_few_scenes(reference: Reference) -> None:
    """Given ones are refused; recorded ones count as none, and tier 0 decides."""
    with pytest.raises(UsageError) as caught:
        independent(reference, slow(12, 2))
    assert caught.value.code == "BNF-U143"
    assert "96 frames are worth" in caught.value.what
    recorded = replace(reference, baseline=slow(12, 2))
    assert independent(recorded, None) is None
    assert Monitor(recorded).tier == 0


def test_a_baseline_of_a_slow_camera_brings_no_alarms(reference: Reference) -> None:
    """Dealt as if they were independent, 60 scenes 8 times over are as good as 480: every look alarms."""
    alarms = 0
    for seed in range(6):
        monitor = Monitor(reference, baseline=slow(30, 40 + seed))
        alarms += any(f.code == "BNF-A017" for _, f in feed(monitor, drawn(160, 500 + seed)))
    assert alarms <= 2  # at a mean run of 1,000 frames 0.8 on average by the bound
