"""The layout of pictures in the monitor: seen where taps see nothing, left out where it is no evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bnfold.drift import Baseline, Monitor, Reference, State
from bnfold.drift.layout import layout_of
from bnfold.drift.pictures import MOST, Pictures, independent
from bnfold.finding import Finding
from tests.drift.test_monitor import HISTORY, SIZES, drawn, means, reference

__all__ = ["reference"]
Array = NDArray[Any]


def scenes(count: int, seed: int) -> Array:
    """A bright square anywhere in noise, (count, 1, 24, 24)."""
    random = np.random.default_rng(seed)
    made = random.uniform(0, 0.3, size=(count, 1, 24, 24))
    for frame, (down, across) in zip(made, random.integers(0, 16, size=(count, 2)), strict=True):
        frame[0, down : down + 8, across : across + 8] += 0.6
    return made.astype(np.float32)


def dark_corner(frames: Array) -> Array:
    changed = frames.copy()
    changed[:, :, :8, :8] *= 0.3
    return changed


def known(seed: int, frames: Array | None = None, count: int = 100) -> Baseline:
    pictures = scenes(count, 1000 + seed) if frames is None else frames
    return Baseline.of(drawn(count, seed), layout=layout_of({"": pictures}))


def feed(monitor: Monitor, rows: Array, frames: Array) -> list[tuple[int, Finding]]:
    found = []
    for number, (row, frame) in enumerate(zip(rows, frames, strict=True)):
        now = monitor.update(means(monitor.reference, row), frame={"x": frame[None]})
        found += [(number, finding) for finding in now]
    return found


def test_what_stands_elsewhere_is_seen_where_the_taps_see_nothing(reference: Reference) -> None:
    rows, frames = drawn(150, 5), scenes(150, 3)
    frames[64:] = dark_corner(frames[64:])
    monitor = Monitor(reference, baseline=known(2))
    ((when, alarm),) = feed(monitor, rows, frames)
    assert 64 <= when <= 104
    assert (alarm.code, alarm.where) == ("BNF-A017", "input")
    assert "darker in the upper left" in alarm.message
    assert alarm.evidence["picture"] is True
    assert alarm.evidence["propagated"] == []
    plain = Monitor(reference, baseline=Baseline.of(drawn(100, 2)))
    assert feed(plain, rows, frames) == []


def test_clean_pictures_run_long(reference: Reference) -> None:
    """At a mean of 1,000 frames, 6 streams of 320 have at most 1.9 alarms on average by the bound."""
    alarms = 0
    for seed in range(6):
        monitor = Monitor(reference, baseline=known(100 + seed))
        found = feed(monitor, drawn(320, 1000 + seed), scenes(320, seed))
        alarms += any(finding.code == "BNF-A017" for _, finding in found)
    assert alarms <= 5


def test_a_background_that_stands_still_is_no_drift(reference: Reference) -> None:
    """What moves before it is new in every frame: the taps count, and the picture does not."""
    stays = scenes(1, 77)[0]
    random = np.random.default_rng(0)
    frames = stays + random.normal(scale=0.02, size=(200, 1, 24, 24)).cumsum(axis=0).astype(np.float32)
    monitor = Monitor(reference, baseline=known(2))
    assert [f.code for _, f in feed(monitor, drawn(200, 3), frames) if f.code == "BNF-A017"] == []
    assert not monitor.state.pictured
    monitor.reset()
    assert monitor.state.pictured
    shifted = drawn(120, 4)
    shifted[40:, 6:] += 0.8
    found = feed(monitor, shifted, frames[:120])
    assert [f.where[:3] for _, f in found if f.code == "BNF-A017"] == ["bn1"]


def test_a_baseline_before_one_background_has_no_layout(reference: Reference) -> None:
    frames = scenes(1, 5)[0] + np.random.default_rng(0).normal(scale=0.02, size=(100, 1, 24, 24)).cumsum(0)
    monitor = Monitor(reference, baseline=known(2, frames.astype(np.float32)))
    assert monitor.state.layout.shape == (HISTORY, 0)
    assert not monitor.state.pictured
    assert feed(monitor, drawn(40, 3), scenes(40, 3)) == []


def test_frames_without_a_picture_are_watched_by_their_taps(reference: Reference) -> None:
    monitor = Monitor(reference, baseline=known(2))
    rows = drawn(130, 3)
    rows[64:, 6:] += 0.8
    found = [f for row in rows for f in monitor.update(means(reference, row))]
    assert [f.code for f in found] == ["BNF-A017"]
    assert not monitor.state.pictured


def test_a_restart_changes_nothing(reference: Reference, tmp_path: Path) -> None:
    rows, frames = drawn(120, 3), scenes(120, 3)
    frames[64:] = dark_corner(frames[64:])
    whole = Monitor(reference, baseline=known(2))
    through = feed(whole, rows, frames)
    parts: list[tuple[int, Finding]] = []
    for start in range(0, 120, 13):
        state = State.load(tmp_path / "state") if start else None
        monitor = Monitor(reference, baseline=known(2), state=state)
        now = feed(monitor, rows[start : start + 13], frames[start : start + 13])
        parts += [(start + number, finding) for number, finding in now]
        monitor.save(tmp_path / "state")
    assert parts == through
    assert State.load(tmp_path / "state").to_bytes() == whole.state.to_bytes()


def test_codes_are_the_baseline_s() -> None:
    frames = scenes(30, 1)
    found = layout_of({"": frames})
    assert found is not None
    layout = Baseline.of(found)
    pictures = Pictures(layout)
    assert pictures.columns == 80
    assert pictures.known.mean(axis=0) == pytest.approx(np.zeros(80), abs=1e-4)
    varied = found.std(axis=0) > 0
    assert pictures.known.std(axis=0)[varied] == pytest.approx(np.ones(varied.sum()), rel=1e-3)
    code = pictures.code({"x": frames[7][None]})
    assert code is not None
    assert code.tolist() == pictures.codes[7].tolist()
    assert pictures.code({"x": frames[:2]}) is None
    assert pictures.code({"x": np.zeros((1, 7))}) is None
    three = Pictures(Baseline.of(np.concatenate([found] * 3, axis=1)))
    assert three.columns == MOST
    assert independent(pictures.known)
    assert not independent(np.repeat(pictures.known[:5], 6, axis=0))
    assert sum(SIZES) == 36
