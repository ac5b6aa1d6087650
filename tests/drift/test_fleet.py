"""The states of many devices: which one stands out, and what they show only together."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from bnfold.drift import Baseline, FleetResult, Monitor, Reference, State, fleet, merge
from bnfold.errors import BnfoldError, InputError
from tests.drift.test_monitor import SIZES, baseline, drawn, feed, means, reference

__all__ = ["reference"]


def device(reference: Reference, seed: int, *, frames: int = 24, shift: float = 0.0, tier: int = 1) -> State:
    monitor = Monitor(reference, baseline=baseline() if tier else None)
    rows = drawn(frames, seed)
    rows[:, SIZES[0] :] += shift
    feed(monitor, rows)
    return State.from_bytes(monitor.state.to_bytes())  # as it comes from a device


def judged(reference: Reference, shifts: list[float], *, frames: int = 24, tier: int = 1) -> FleetResult:
    return fleet(
        {
            f"device {number}": device(reference, 50 + number, frames=frames, shift=shift, tier=tier)
            for number, shift in enumerate(shifts)
        }
    )


@pytest.mark.parametrize("tier", [0, 1])
def test_a_fleet_at_home(reference: Reference, tier: int) -> None:
    result = judged(reference, [0.0] * 5, tier=tier)
    assert (result.drifted, result.judged, result.passed, result.tier) == (False, True, True, tier)
    assert [finding.code for finding in result.findings] == ["BNF-D006"]
    assert result.frames == 5 * 24
    assert result.counts.devices == 5
    assert all(layer.effect < 0.1 for layer in result.layers)


@pytest.mark.parametrize("tier", [0, 1])
def test_the_device_that_stands_out(reference: Reference, tier: int) -> None:
    result = judged(reference, [0.0, 0.0, 1.0, 0.0], tier=tier)
    assert (result.drifted, result.together, result.passed) == (True, False, False)
    assert [device.name for device in result.devices if device.drifted] == ["device 2"]
    found = result.findings[0]
    assert (found.code, found.severity, found.where) == ("BNF-A017", "error", "bn1")
    assert found.evidence["device"] == "device 2"
    first, second = result.devices[2].layers
    assert first.effect < 0.2
    assert second.effect == pytest.approx(1.0, abs=0.2)
    assert (first.significant, second.significant) == (False, True)


@pytest.mark.parametrize("tier", [0, 1])
def test_what_no_device_shows_alone(reference: Reference, tier: int) -> None:
    result = judged(reference, [0.2] * 20, frames=8, tier=tier)
    assert not any(device.drifted for device in result.devices)
    assert (result.drifted, result.together) == (True, True)
    assert result.findings[0].where == "bn1"
    assert "20 devices together" in result.findings[0].message
    assert result.layers[1].effect == pytest.approx(0.2, abs=0.06)


def test_a_scale_that_no_device_shows_alone(reference: Reference) -> None:
    """Single values vary by 1 in training; here they vary by less, around the same means."""
    single = replace(reference, layers=tuple(replace(layer, positions=1) for layer in reference.layers))

    def judged(factor: float) -> FleetResult:
        states = {}
        for number in range(20):
            monitor = Monitor(single)
            feed(monitor, factor * np.random.default_rng(number).normal(size=(8, sum(SIZES))))
            states[str(number)] = State.from_bytes(monitor.state.to_bytes())
        return fleet(states)

    assert not judged(1.0).drifted
    result = judged(0.8)
    assert (result.drifted, result.together) == (True, True)
    assert not any(device.drifted for device in result.devices)


def test_false_alarms_are_rare(reference: Reference) -> None:
    """At 1% of the fleets, 40 have more than 2 with probability 0.0075; half of them have a baseline."""
    alarms = 0
    for draw in range(40):
        states = {}
        for number in range(3):
            known = Baseline.of(drawn(60, 7000 + draw)) if draw % 2 else None
            monitor = Monitor(reference, baseline=known)
            feed(monitor, drawn(16, 100 * draw + number))
            states[str(number)] = monitor.state
        alarms += fleet(states).drifted
    assert alarms <= 2


def test_an_alarm_counts_though_the_window_has_calmed(reference: Reference) -> None:
    monitor = Monitor(reference, baseline=baseline())
    rows = drawn(160, 3)
    rows[60:100, 6:] += 0.8
    feed(monitor, rows)
    assert monitor.drifted
    result = fleet({"a": monitor.state, "b": device(reference, 8)})
    assert result.drifted
    assert [d.drifted for d in result.devices] == [True, False]
    assert result.devices[0].blamed == monitor.state.blamed
    assert result.devices[0].blamed.startswith("bn1")
    assert not any(layer.significant for layer in result.devices[0].layers)
    assert result.findings[0].where == result.devices[0].blamed


def test_the_order_of_the_states_does_not_matter(reference: Reference) -> None:
    states = {str(n): device(reference, n, shift=float(n == 1)) for n in range(3)}
    documents = {
        json.dumps(fleet(dict(order)).to_json(), allow_nan=False)
        for order in itertools.permutations(states.items())
    }
    assert len(documents) == 1


def test_frames_that_broke_are_named_by_device(reference: Reference) -> None:
    monitor = Monitor(reference)
    rows = drawn(20, 0)
    feed(monitor, rows)
    monitor.update(None, frame=np.array([[np.nan]]))
    monitor.update(means(reference, rows[0]), outputs={"y": np.array([np.inf])})
    monitor.unusable("x.png", InputError("BNF-R003", "damaged"))
    result = fleet({"broken": monitor.state, "well": device(reference, 1, tier=0)})
    assert [(f.code, f.evidence["device"]) for f in result.findings] == [
        ("BNF-D010", "broken"), ("BNF-D011", "broken"), ("BNF-D012", "broken"),
    ]  # fmt: skip
    assert (result.drifted, result.passed) == (True, False)
    assert not any(d.drifted for d in result.devices)


def test_too_little_is_no_verdict(reference: Reference) -> None:
    result = judged(reference, [2.0, 2.0], frames=3)
    assert (result.drifted, result.judged, result.passed) == (False, False, True)
    assert [finding.code for finding in result.findings] == ["BNF-D001"]
    empty = fleet({"new": Monitor(reference).state})
    assert (empty.judged, empty.drifted) == (False, False)


def test_a_state_that_was_merged_before(reference: Reference) -> None:
    states = [device(reference, n) for n in range(4)]
    half = merge(states[:2])
    result = fleet({"half": half, "c": states[2], "d": states[3]})
    assert result.counts.devices == 4
    assert result.counts == fleet({str(n): state for n, state in enumerate(states)}).counts
    assert [f.code for f in result.findings] == ["BNF-D006", "BNF-D013"] or [
        f.code for f in result.findings
    ] == ["BNF-D013", "BNF-D006"]
    assert result.frames == 48


def test_the_shift_of_a_life_is_that_of_its_frames(reference: Reference) -> None:
    """Against numpy on the same rows, coded as the monitor codes them."""
    rows = drawn(40, 5)
    monitor = Monitor(reference)
    feed(monitor, rows)
    (found,) = fleet({"one": monitor.state}).devices
    codes = np.clip(np.rint((rows + 4) / (8 / 255)), 0, 255) * (8 / 255) - 4
    for layer, part in zip(found.layers, np.split(codes, [SIZES[0]], axis=1), strict=True):
        behind = 32 * 19  # B (2 - m) / m
        chance = part.var(axis=0, ddof=1).mean() * (1 / 40 + 1 / behind)
        expected = math.sqrt(max(np.square(part.mean(axis=0)).mean() - chance, 0.0))
        assert layer.effect == pytest.approx(expected, rel=0.02, abs=0.004)


def test_other_networks_and_nothing(reference: Reference) -> None:
    for states, code in (
        ({}, "BNF-U144"),
        ({"a": device(reference, 0), "b": device(reference, 0, tier=0)}, "BNF-U145"),
    ):
        with pytest.raises(BnfoldError) as caught:
            fleet(states)
        assert caught.value.code == code


def test_without_a_bound_on_the_spread_only_alarms_count(reference: Reference) -> None:
    """A training batch of 1 leaves the running variance without meaning."""
    monitor = Monitor(reference, baseline=baseline(), train_batch=1)
    feed(monitor, drawn(24, 0) + 2.0)
    result = fleet({"one": monitor.state})
    assert (result.drifted, result.judged) == (False, False)
    feed(monitor, drawn(24, 1) + 2.0)
    result = fleet({"one": State.from_bytes(monitor.state.to_bytes())})
    assert (result.drifted, result.judged) == (True, True)
