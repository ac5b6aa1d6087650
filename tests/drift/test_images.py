"""The words for what changed, on images that were changed so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from bnfold.drift import images

Array = NDArray[np.float64]


def scenes(count: int, seed: int) -> Array:
    """Smooth colour fields with edges, values within 0.1 and 0.9, (frames, 3, 24, 24)."""
    random = np.random.default_rng(seed)
    grid = np.arange(24)
    phase = random.uniform(0, 6, (count, 3, 1, 1))
    found = 0.5 + 0.2 * np.sin(grid[:, None] / 3 + phase) * np.sin(grid / 4 + phase)
    edge = random.integers(6, 18, count)
    for frame, at in zip(found, edge, strict=True):
        frame[:, :, at:] += 0.15
    return np.asarray(found + 0.01 * random.normal(size=found.shape))


def blurred(x: Array) -> Array:
    for axis in (2, 3):
        for _ in range(2):
            x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    return x


CHANGES: list[tuple[str, Callable[[Array], Array]]] = [
    ("darker", lambda x: 0.5 * x),
    ("brighter", lambda x: x + 0.3),
    ("less contrast", lambda x: 0.5 + 0.3 * (x - 0.5)),
    ("noisier", lambda x: x + 0.1 * np.random.default_rng(7).normal(size=x.shape)),
    ("blurred", blurred),
    ("paler", lambda x: 0.9 * x.mean(axis=1, keepdims=True) + 0.1 * x),
    ("more clipped pixels", lambda x: np.clip(1.6 * x, 0, 1)),
]


@pytest.mark.parametrize(("words", "change"), CHANGES, ids=[words for words, _ in CHANGES])
def test_a_change_is_named(words: str, change: Callable[[Array], Array]) -> None:
    found = images.changes(change(scenes(40, 1)), scenes(60, 2))
    assert words in [item.words for item in found]


def test_nothing_is_said_of_the_same_scenes() -> None:
    assert not any(item.words for item in images.changes(scenes(40, 3), scenes(60, 2)))


def test_noise_is_in_the_units_of_the_pixels() -> None:
    flat = 0.05 * np.random.default_rng(0).normal(size=(20, 1, 64, 64)) + 0.5
    found = images.statistics(flat)
    assert found is not None
    assert found["noise"].mean() == pytest.approx(0.05, rel=0.05)
    assert found["brightness"].mean() == pytest.approx(0.5, abs=0.01)
    assert found["contrast"].mean() == pytest.approx(0.05, rel=0.05)
    assert "saturation" not in found


def test_channels_first_and_last_are_the_same() -> None:
    first = images.statistics(scenes(5, 0))
    last = images.statistics(np.moveaxis(scenes(5, 0), 1, -1))
    assert first is not None
    assert last is not None
    for name, values in first.items():
        assert last[name] == pytest.approx(values)


@pytest.mark.parametrize("shape", [(5, 10), (5, 4, 9, 9), (5, 3, 2, 9), (5, 3, 4, 9, 9)])
def test_what_is_no_image_has_no_statistics(shape: tuple[int, ...]) -> None:
    assert images.statistics(np.zeros(shape)) is None
    assert images.changes(np.zeros(shape), np.zeros(shape)) == []
