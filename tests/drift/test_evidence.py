"""What a check keeps on request: the right frames, and a distance that orders them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bnfold
from bnfold.drift import Evidence, LayerReference, Reference, Taps

from .test_check import Net, frames, net  # noqa: F401


def evidence(values: list[list[float]], held: list[list[float]] | None = None) -> Evidence:
    """Two layers of two channels; the second channel of the first layer is shut off."""
    layers = (
        LayerReference("a", np.zeros(2), np.array([1.0, 0.0]), 4),
        LayerReference("b", np.zeros(2), np.ones(2), 4),
    )
    taps = Taps(
        np.array(values, dtype=np.float32), (1, 2), (np.array([0]), np.array([0, 1]))
    )  # columns a[0], b[0], b[1]
    count = len(values)
    return Evidence(
        Reference(layers), taps, np.arange(count), np.arange(count), np.zeros((count, 1)),
        None if held is None else np.array(held, dtype=np.float32),
    )  # fmt: skip


def test_the_distance_without_held_out_frames() -> None:
    found = evidence([[0, 0, 0], [2, 3, 4], [100, 0, 0]])
    expected = [0.0, (2 + np.sqrt((9 + 16) / 2)) / 2, 10.0 / 2]
    np.testing.assert_allclose(found.distances, expected, rtol=1e-6)
    assert found.held_out_distances.shape == (0,)


def test_the_distance_from_held_out_frames() -> None:
    found = evidence([[3, 1, 0]], [[1, 0, 0], [3, 2, 0]])
    # means 2, 1, 0; deviations sqrt 2, sqrt 2 and none, for which 0.05 stands
    np.testing.assert_allclose(found.distances, [(1 / np.sqrt(2) + 0) / 2], rtol=1e-6)
    np.testing.assert_allclose(found.held_out_distances, [(1 / np.sqrt(2) + 0.5) / 2] * 2, rtol=1e-6)


def test_a_channel_s_column() -> None:
    found = evidence([[0, 0, 0]])
    assert [found.column("a", 0), found.column("b", 0), found.column("b", 1)] == [0, 1, 2]
    assert found.column("a", 1) is None
    assert found.column("c", 0) is None


def test_it_is_kept_on_request_and_changes_nothing(net: Net) -> None:  # noqa: F811
    given, held = frames(32, 1), frames(40, 2)
    given[3] *= 4
    plain = bnfold.drift.check(net, given, baseline=held)
    more = bnfold.drift.check(net, given, baseline=held, keep=True)
    assert plain.evidence is None
    assert more.evidence is not None
    assert more.to_json() == plain.to_json()
    json.dumps(more.to_json())
    kept = more.evidence
    assert kept.pictures is given
    assert kept.taps.values.shape == (32, 60)
    assert kept.held_out is not None
    assert kept.held_out.shape == (40, 60)
    assert int(np.argmax(kept.distances)) == 3
    np.testing.assert_allclose(kept.images["brightness"], given.mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(kept.held_out_images["brightness"], held.mean(axis=(1, 2, 3)), rtol=1e-5)


def test_frames_that_could_not_be_tested_are_not_in_it(net: Net) -> None:  # noqa: F811
    given = frames(20, 1)
    given[[0, 7]] = np.nan
    kept = bnfold.drift.check(net, given, keep=True).evidence
    assert kept is not None
    assert kept.tested.tolist() == [i for i in range(20) if i not in (0, 7)]
    assert len(kept.distances) == 18
    nothing = bnfold.drift.check(net, np.full_like(given, np.nan), keep=True).evidence
    assert nothing is not None
    assert (len(nothing.tested), len(nothing.distances), dict(nothing.images)) == (0, 0, {})


def test_repeats_are_told(net: Net) -> None:  # noqa: F811
    kept = bnfold.drift.check(net, np.repeat(frames(12, 1), 3, axis=0), keep=True).evidence
    assert kept is not None
    assert kept.kept.tolist() == list(range(0, 36, 3))


def test_a_recorded_baseline_is_in_it() -> None:
    found = evidence([[0, 0, 0]], [[1, 2, 3], [1, 2, 3]])
    center, deviation = found.spread
    assert center == pytest.approx([1, 2, 3])
    assert deviation == pytest.approx([0.05] * 3)
