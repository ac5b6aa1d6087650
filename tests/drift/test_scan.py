"""The scan over windows of several lengths: exact under exchange, alike for any layout, and quick to see."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bnfold.drift import tier1
from bnfold.drift.scan import WINDOWS, _Pool, deals_for, scan
from bnfold.drift.scores import normal_scores

SIZES = (6, 0, 30)
Array = NDArray[Any]


def drawn(count: int, seed: int, sizes: tuple[int, ...] = SIZES) -> Array:
    """Codes of correlated, skewed channels."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(5).normal(size=(3, sum(sizes)))
    values = 0.5 * random.normal(size=(count, 3)) @ mix + random.gumbel(size=(count, sum(sizes)))
    return np.clip(np.rint(100 + 20 * values), 0, 255).astype(np.uint8)


def test_the_p_value_is_uniform_without_drift() -> None:
    """Whatever the tails and the dependence: at most a share of p has a p-value up to p."""
    found = []
    for seed in range(200):
        rows = drawn(40 + 64, seed)
        found.append(scan(rows[40:], rows[:40], SIZES, deals=39).p)
    for level, most in ((0.05, 18), (0.25, 66), (0.5, 118)):  # the mean and 2.5 deviations
        assert sum(p <= level for p in found) <= most
    assert sum(p <= 0.5 for p in found) >= 82


@pytest.mark.parametrize("late", [8, 16, 32, 64])
def test_the_window_since_the_change_stands_out(late: int) -> None:
    hits = 0
    for seed in range(5):
        rows = drawn(80 + 64, 900 + seed).astype(int)
        rows[-late:, 6:] += 25
        found = scan(rows[80:].clip(0, 255).astype(np.uint8), rows[:80].astype(np.uint8), SIZES, deals=99)
        assert found.p == pytest.approx(0.01)
        hits += found.window == late
    assert hits >= 4


def test_one_window_is_tier_1_s_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same statistics, other deals: p-values agree as far as 499 deals tell them."""
    monkeypatch.setattr("bnfold.drift.scan.WINDOWS", (32,))
    for seed in range(6):
        rows = drawn(60 + 32, 40 + seed).astype(int)
        rows[60:, :6] += 4 * seed
        codes = rows.clip(0, 255).astype(np.uint8)
        ours = scan(codes[60:], codes[:60], SIZES, deals=499).p
        assert ours == pytest.approx(tier1.judge(codes[60:], codes[:60], SIZES, deals=499)[0], abs=0.07)


@pytest.mark.parametrize("sizes", [(36,), (200,), (3, 200), (12, 12, 12)])
def test_both_sides_of_the_inverse_say_the_same(sizes: tuple[int, ...]) -> None:
    """More columns than frames, and fewer: the shift is w' H w with H = A' (A A' + lambda)^-1 A."""
    codes = drawn(60, 3, sizes)
    pool = _Pool(codes, sizes)
    w = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    w -= w.mean(axis=0)
    found = np.concatenate([np.stack(one.statistics(w)) for one in pool._layers], axis=1)
    found = found[:, np.argsort(np.argsort([(size - 1).bit_length() for size in sizes], kind="stable"))]
    scores = normal_scores(codes).astype(np.float64)
    edges = np.cumsum([0, *sizes])
    far = []
    for layer, (a, b) in enumerate(itertools.pairwise(edges)):
        part = scores[:, a:b]
        ridge = 0.3 * np.square(part).sum() / min(59, b - a)
        hat = part @ np.linalg.inv(part.T @ part + ridge * np.eye(b - a)) @ part.T
        assert found[0, layer] == pytest.approx(np.cbrt(np.einsum("id,ij,jd->d", w, hat, w)), rel=1e-3)
        assert found[2, layer] == pytest.approx(np.abs(part.T @ w).max(axis=0), rel=1e-4)
        far.append(np.diag(hat))
    spread = np.abs(normal_scores(np.array(far).T.astype(np.float32)).T @ w)
    assert found[1] == pytest.approx(spread, abs=0.05)


def test_more_deals_than_are_held_at_once() -> None:
    rows = drawn(50 + 32, 7).astype(int)
    rows[-16:, 6:] += 60
    codes = rows.clip(0, 255).astype(np.uint8)
    for deals in (500, 1999):
        assert scan(codes[50:], codes[:50], SIZES, deals=deals).p == pytest.approx(1 / (1 + deals))
    calm = scan(drawn(32, 1), codes[:50], SIZES, deals=5000, level=0.001)
    assert calm.p > 0.001  # after the first 499 it is known
    assert deals_for(0.008) == 499
    assert deals_for(8e-5) == 24_999


def test_what_cannot_vary_tells_nothing() -> None:
    constant = np.full((40, 36), 9, dtype=np.uint8)
    assert scan(constant[:32], constant[:20], SIZES, deals=39).p == 1
    assert WINDOWS == (8, 16, 32, 64)


def test_frames_of_the_baseline_itself_are_no_drift() -> None:
    """Twice in the pool they would lie closer to the others than what is there once."""
    baseline = np.random.default_rng(5).integers(0, 256, (64, 80)).astype(np.uint8)
    assert scan(baseline[:32], baseline, [80], deals=199).p > 0.05
    assert scan(baseline, baseline, [80], deals=199).p == 1
    moved = np.minimum(baseline[:32], 200)
    assert scan(moved, baseline, [80], deals=199).p < 0.01
