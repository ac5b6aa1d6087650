"""How many independent frames a window is worth."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.drift.blocks import blocks_of, distinct, integrated_time, without_change


def autoregressive(count: int, channels: int, memory: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = [random.normal(size=channels)]
    for _ in range(count - 1):
        values.append(memory * values[-1] + np.sqrt(1 - memory**2) * random.normal(size=channels))
    return np.array(values)


def test_independent_frames_keep_all_but_few() -> None:
    windows = [np.random.default_rng(seed).normal(size=(64, 20)) for seed in range(60)]
    times = [integrated_time(window, [20]) for window in windows]
    assert sum(time > 1 for time in times) <= 4  # a level of 2%: 1.2 expected


@pytest.mark.parametrize(("memory", "low", "high"), [(0.5, 1.8, 4), (0.8, 4, 14)])
def test_an_autoregressive_stream(memory: float, low: float, high: float) -> None:
    """T = (1 + memory) / (1 - memory): 3 and 9."""
    times = [integrated_time(autoregressive(256, 20, memory, seed), [12, 8]) for seed in range(10)]
    assert low < np.median(times) < high


def test_repeats_are_one_frame() -> None:
    random = np.random.default_rng(0)
    scenes = random.uniform(size=(8, 1, 12, 12))
    frames = np.repeat(scenes, 8, axis=0) + random.normal(scale=0.02, size=(64, 1, 12, 12))
    assert distinct(frames).tolist() == list(range(0, 64, 8))
    taps = np.repeat(random.normal(size=(8, 5)), 8, axis=0)
    blocks = blocks_of(frames, taps, [5])
    assert blocks.effective == 8
    assert blocks.means(taps) == pytest.approx(taps[::8])


def test_a_slow_change_is_told_from_the_last_kept_frame() -> None:
    """Each step is small; a comparison with the frame before would keep one frame of all."""
    random = np.random.default_rng(1)
    one, other = random.uniform(size=(2, 1, 10, 10))
    frames = np.stack([(1 - w) * one + w * other for w in np.linspace(0, 1, 60)])
    assert 3 <= len(distinct(frames)) <= 8


def test_a_background_that_stands_still_is_no_repeat() -> None:
    """A small thing moves before a large scene: the pixels hardly change, what the network sees does."""
    random = np.random.default_rng(2)
    scene = random.uniform(size=(1, 40, 40))
    frames = np.repeat(scene[None], 30, axis=0)
    for index, frame in enumerate(frames):
        frame[:, index : index + 2, 10:12] = 0
    assert len(distinct(frames)) == 1
    late = random.normal(size=(30, 6))
    early = 0.02 * random.normal(size=(30, 9))
    assert blocks_of(frames, np.hstack([early, late]), [9, 6]).effective == 30
    assert len(distinct(frames, early, [9])) == 1


def test_a_change_within_the_window_is_no_correlation() -> None:
    random = np.random.default_rng(3)
    found = []
    for seed in range(8):
        rows = np.random.default_rng(seed).normal(size=(32, 10))
        rows[random.integers(6, 26) :] += 1.5
        assert integrated_time(rows, [10]) > 1
        found.append(integrated_time(rows, [10], change=True))
    assert sum(time > 1 for time in found) <= 1
    slow = [integrated_time(autoregressive(32, 10, 0.8, seed), [10], change=True) for seed in range(8)]
    assert sum(time > 1 for time in slow) >= 5


def test_taking_a_change_out_leaves_nothing_of_it() -> None:
    rows = np.zeros((20, 3))
    rows[7:] = [2.0, -1.0, 5.0]
    assert without_change(rows @ rows.T) == pytest.approx(np.zeros((20, 20)), abs=1e-9)


def test_given_blocks_are_taken_as_given() -> None:
    taps = np.arange(20.0).reshape(10, 2)
    blocks = blocks_of(None, taps, [2], length=4)
    assert blocks.starts.tolist() == [0, 4, 8]
    assert blocks.means(taps) == pytest.approx(np.array([[3, 4], [11, 12], [17, 18]]))
    assert not blocks.automatic
