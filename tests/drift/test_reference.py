"""The reference and the baseline: there and back, and every kind of damage."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bnfold.drift import Baseline, LayerReference, Reference, Taps
from bnfold.drift.taps import spread_factor
from bnfold.errors import ArtifactError


@pytest.fixture
def reference() -> Reference:
    random = np.random.default_rng(0)
    layers = (
        LayerReference("a", random.normal(size=3), np.array([1, 0, 0.5]), 49, 0.1, 700, "output", "tap.0"),
        LayerReference("b#2", random.normal(size=2), np.array([2.0, 3.0]), 1, None, None, "input", "tap.1"),
    )
    baseline = Baseline.of(random.normal(size=(30, 4)), (10, 20))
    return Reference(layers, {"c": "merged"}, baseline)


def test_there_and_back(reference: Reference) -> None:
    document = json.loads(json.dumps(reference.to_json()))
    back = Reference.from_json(document)
    assert back.to_json() == reference.to_json()
    for a, b in zip(reference.layers, back.layers, strict=True):
        assert np.array_equal(a.mean, b.mean)
        assert np.array_equal(a.deviation, b.deviation)
        assert (a.name, a.positions, a.momentum, a.batches, a.of, a.tap) == (
            b.name, b.positions, b.momentum, b.batches, b.of, b.tap,
        )  # fmt: skip
    assert reference.baseline is not None
    assert back.baseline is not None
    assert np.array_equal(back.baseline.values, reference.baseline.values)
    assert back.baseline.predictions == (10, 20)
    assert back.left_out == {"c": "merged"}


def test_second_moments_there_and_back(reference: Reference) -> None:
    """Their mean is the variance, and their unit what the squares of normal values deviate from it by."""
    first, second = reference.layers
    squares = first.squares()
    assert squares.name == "a^2"
    assert squares.mean == pytest.approx(first.deviation**2)
    normal = np.random.default_rng(0).normal(first.mean, first.deviation, (200_000, 3))
    assert np.square(normal - first.mean).std(axis=0) == pytest.approx(squares.deviation, rel=0.02, abs=1e-12)
    assert squares.alive.tolist() == first.alive.tolist()
    quiet = replace(first, deviation=np.array([1, 1e-4, 1e-7]))
    assert quiet.alive.tolist() == quiet.squares().alive.tolist() == [True, True, False]
    whole = Reference((first, replace(squares, tap="tap.9"), second))
    document = json.loads(json.dumps(whole.to_json()))
    assert document["schema"] == 2  # an older version would take them for means
    assert reference.to_json()["schema"] == 1
    back = Reference.from_json(document)
    assert [layer.moment for layer in back.layers] == [1, 2, 1]
    assert back.to_json() == whole.to_json()
    for value in (3, True, "2", None):
        document["layers"][1]["moment"] = value
        with pytest.raises(ArtifactError, match="moment"):
            Reference.from_json(document)


DAMAGE: list[tuple[str, Any]] = [
    ("schema", 3), ("schema", 0), ("schema", None), ("layers", []), ("layers", [3]), ("left_out", {"c": 1}),
    ("layers.0.mean", "AAAA"), ("layers.0.mean", "not base64!"), ("layers.0.mean", None),
    ("layers.0.deviation", "AACAvwAAgD8AAIA/"), ("layers.0.mean", "AADAfwAAgD8AAIA/"),
    ("layers.0.channels", 0), ("layers.0.channels", 4), ("layers.0.positions", 0),
    ("layers.0.positions", 1.5),
    ("layers.0.momentum", 2), ("layers.0.of", "middle"), ("layers.0.name", 7), ("layers.0.name", "b#2"),
    ("baseline.codes", "AAAA"), ("baseline.frames", -1), ("baseline.frames", 31), ("baseline.channels", 5),
    ("baseline.step", "AAAA"), ("baseline.low", "AADAfwAAgD8AAIA/AACAPw=="), ("baseline.predictions", [-1]),
    ("baseline", 3),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), DAMAGE)
def test_damage_is_named(reference: Reference, path: str, value: Any) -> None:
    document: Any = copy.deepcopy(reference.to_json())
    place = document
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if step.isdigit() else place[step]
    place[last] = value
    with pytest.raises(ArtifactError) as caught:
        Reference.from_json(document, where="x.onnx")
    assert caught.value.code == "BNF-M030"
    assert caught.value.where == "x.onnx"


def test_no_object_is_no_reference() -> None:
    with pytest.raises(ArtifactError):
        Reference.from_json([1])


def test_frames_behind_the_running_mean() -> None:
    layer = LayerReference("x", np.zeros(1), np.ones(1), 1, 0.1, 1000)
    assert layer.frames_behind(32) == pytest.approx(32 * 19)
    assert LayerReference("x", np.zeros(1), np.ones(1), 1, 0.1, 5).frames_behind(32) == 160
    assert LayerReference("x", np.zeros(1), np.ones(1), 1, None, 40).frames_behind(8) == 320
    assert LayerReference("x", np.zeros(1), np.ones(1), 1, None, None).frames_behind(8) == np.inf


def test_spread_factor_is_what_small_batches_lose() -> None:
    """Frames that are constant within themselves: running_var is that of B values, counted B x HW times."""
    random = np.random.default_rng(0)
    batch, positions = 4, 9
    found = []
    for _ in range(20000):
        values = np.repeat(random.normal(size=batch), positions)
        found.append(values.var(ddof=1))
    layer = LayerReference("x", np.zeros(1), np.ones(1), positions)
    assert np.mean(found) * spread_factor(layer, batch) == pytest.approx(1, abs=0.02)
    assert spread_factor(LayerReference("x", np.zeros(1), np.ones(1), 1), 4) == 1
    assert spread_factor(layer, 1) == np.inf


def test_taps_are_in_deviations_and_leave_dead_channels_out(reference: Reference) -> None:
    first, second = reference.layers
    ones = np.ones((5, 1))
    means = [first.mean + 2 * first.deviation * ones, second.mean - second.deviation * ones]
    taps = Taps.of(means, reference)
    assert taps.sizes == (2, 2)
    assert taps.channels[0].tolist() == [0, 2]
    assert taps.layer(0) == pytest.approx(2 * np.ones((5, 2)), abs=1e-5)
    assert taps.layer(1) == pytest.approx(-np.ones((5, 2)), abs=1e-5)
    with pytest.raises(ValueError, match="1 taps for 2 layers"):
        Taps.of(means[:1], reference)
    with pytest.raises(ValueError, match=r"a: taps of shape"):
        Taps.of([means[0][:, :2], means[1]], reference)


def test_the_baseline_keeps_values_to_half_a_level() -> None:
    values = np.random.default_rng(0).standard_t(2, size=(100, 6)) * np.array([1e-3, 1, 10, 1e4, 1, 1])
    values[:, 5] = 3.25
    baseline = Baseline.of(values)
    reach = np.ptp(values, axis=0)
    assert (np.abs(baseline.values - values) <= 0.51 * 2 * reach / 255 + 1e-5).all()
    beyond = values + 10 * reach + 1
    assert (baseline.code(beyond) == 255).all()
