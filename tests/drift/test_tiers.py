"""The two tests on drawn taps: rates without drift, power with it, blame, and what the numbers mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bnfold.drift import tier0, tier1
from bnfold.drift.scores import normal_scores
from bnfold.drift.spectrum import spectrum
from bnfold.drift.tier0 import Expected, LayerTest

SIZES = (6, 40, 200)
Array = NDArray[np.float64]


def drawn(frames: int, seed: int, *, heavy: bool = False) -> Array:
    """Three layers that share factors; ``heavy``: one frame in fifty is far out in most channels."""
    random = np.random.default_rng(seed)
    factors = random.normal(size=(frames, 5))
    mix = np.random.default_rng(99).normal(size=(5, sum(SIZES)))
    values = 0.3 * factors @ mix + 0.4 * random.normal(size=(frames, sum(SIZES)))
    if heavy:
        far = (random.uniform(size=(frames, 1)) < 0.02) * random.standard_t(1.5, (frames, sum(SIZES))) * 8
        values = 0.3 * values + far
    return values


def split(values: Array) -> list[Array]:
    return np.split(values, np.cumsum(SIZES)[:-1], axis=1)


def zero(values: Array, batches: int | None = None) -> list[LayerTest]:
    return tier0.judge(split(values), [Expected(600.0, batches)] * 3)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("frames", [8, 64])
def test_tier_0_without_drift(frames: int, heavy: bool) -> None:
    alarms = [any(t.significant for t in zero(drawn(frames, seed, heavy=heavy))) for seed in range(200)]
    assert sum(alarms) <= 4  # at 1%: 2 expected, more than 4 with probability 0.05


@pytest.mark.parametrize("heavy", [False, True])
def test_tier_1_without_drift(heavy: bool) -> None:
    alarms = 0
    for seed in range(150):
        values = drawn(60, seed, heavy=heavy)
        p, tests = tier1.judge(values[:16], values[16:], SIZES, deals=99)
        alarms += p <= 0.05 and any(t.significant for t in tests)
    assert alarms <= 14  # at 5%: 7.5 expected, more than 14 with probability 0.01


def test_the_p_value_is_uniform() -> None:
    found = []
    for seed in range(200):
        values = drawn(50, 1000 + seed, heavy=True)
        found.append(tier1.judge(values[:20], values[20:], SIZES, deals=99)[0])
    for level in (0.1, 0.25, 0.5, 0.75):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.1)


def shifted(values: Array, by: float, *, first: int = 0, channels: slice = slice(None)) -> Array:
    """A shift from one layer on."""
    moved = [part.copy() for part in split(values)]
    for part in moved[first:]:
        part[:, channels] += by * np.where(np.arange(part.shape[1]) % 2, 1, -1)[channels]
    return np.concatenate(moved, axis=1)


def test_the_earliest_layer_is_blamed() -> None:
    for seed in range(10):
        now = shifted(drawn(64, seed), 0.4, first=1)
        before = drawn(100, 500 + seed)
        for tests in (zero(now), tier1.judge(now, before, SIZES, deals=199)[1]):
            assert [t.significant for t in tests] == [False, True, True]
            assert tests[1].effect == pytest.approx(0.4, abs=0.12)
            assert "shift" in tests[1].by


def test_one_channel_alone_is_seen_and_named() -> None:
    now = shifted(drawn(64, 3), 1.2, first=2, channels=slice(17, 18))
    for tests in (zero(now), tier1.judge(now, drawn(100, 77), SIZES, deals=199)[1]):
        last = tests[2]
        assert last.significant
        assert last.channels[0] == 17
        assert last.shifts[17] == pytest.approx(1.2, abs=0.35)
        assert not tests[0].significant
        assert not tests[1].significant


def test_a_wider_spread_without_a_shift_is_seen() -> None:
    now, before = 2.5 * drawn(64, 4), drawn(100, 5)
    assert any("spread" in t.by for t in zero(2 * now))
    p, tests = tier1.judge(now, before, SIZES, deals=199)
    assert p <= 0.01
    assert any("spread" in t.by for t in tests)
    assert any(t.significant for t in tests)


def unit(frames: int, seed: int, *, by: float = 0.0) -> Array:
    """One layer of 60 single values that share factors, variance 1 but for every other channel's."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(98).normal(size=(5, 60))
    values = random.normal(size=(frames, 5)) @ mix + 2 * random.normal(size=(frames, 60))
    values /= np.sqrt(np.square(mix).sum(axis=0) + 4)
    return np.asarray(values * (1 + by * np.where(np.arange(60) % 2, 1, -1)))


def test_a_known_scale_that_changes_is_seen_without_a_shift() -> None:
    def judged(values: Array, single: bool) -> LayerTest:
        return tier0.judge([values], [Expected(600.0, single=single)])[0]

    clean = [judged(unit(64, seed), True) for seed in range(300)]
    assert sum(test.significant for test in clean) <= 7  # at 1%: 3 expected, more than 7 with p = 0.01
    changed = [unit(64, seed, by=0.2) for seed in range(40)]
    assert all("scale" in judged(values, True).by for values in changed)
    # Means over many positions vary by less than the bound, and by how much is not known
    assert sum(judged(values, False).significant for values in changed) <= 2  # by chance, at 1%
    assert not any("scale" in judged(values, False).by for values in changed)
    assert not any(judged(0.3 * values, False).significant for values in changed)


def test_a_known_scale_makes_few_frames_tell_more() -> None:
    """What chance can do is known where the deviation is, however little 16 frames say of it."""
    plain = [unit(16, seed) for seed in range(200)]
    moved = [values + 0.3 * np.where(np.arange(60) % 2, 1, -1) for values in plain]

    def alarms(windows: list[Array]) -> int:
        return sum(tier0.judge([z], [Expected(600.0, single=True)])[0].significant for z in windows)

    assert alarms(plain) <= 6  # at 1%: 2 expected, more than 6 with p = 0.005
    assert alarms(moved) >= 90
    # With the deviation from the frames alone: half as many
    free = [tier0._shift(z, 1 / 16 + 1 / 600, tier0.MARGIN, 0.0045) for z in moved]
    assert sum(found.strength > 1 for found in free) <= 60


def test_a_trace_that_is_known_is_the_same_law_with_another_scale() -> None:
    shape = spectrum(drawn(64, 1))
    known = shape.known_at(3 * shape.trace)
    assert known.degrees == pytest.approx(shape.degrees)
    assert known.known == pytest.approx(63 * shape.degrees)
    exact = replace(shape, known=known.known)
    assert known.quantile(1e-3) == pytest.approx(3 * exact.quantile(1e-3))
    assert known.quantile(1e-3) < 3 * shape.quantile(1e-3)


def test_a_shift_within_the_margin_is_no_drift() -> None:
    small = [shifted(drawn(300, seed), 0.04) for seed in range(6)]
    assert not any(t.significant for values in small for t in zero(values))
    large = [shifted(drawn(300, seed), 0.15) for seed in range(6)]
    assert all(any(t.significant for t in zero(values)) for values in large)


def test_a_short_training_has_a_wider_margin() -> None:
    limits = [zero(drawn(16, 0), batches)[0].limit for batches in (None, 100_000, 300, 75, 2)]
    assert limits[0] == tier0.MARGIN
    assert limits == sorted(limits)
    assert limits[-1] == pytest.approx(3 * tier0.MARGIN)


def test_what_is_called_detectable_is_detected() -> None:
    sizes = zero(drawn(64, 0))[1].detectable
    hits = sum(zero(shifted(drawn(64, seed), sizes, first=1))[1].significant for seed in range(60))
    assert hits >= 49  # 0.9 of 60 is 54
    assert sizes < zero(drawn(16, 0))[1].detectable


def test_more_frames_of_the_same_make_the_effect_no_larger() -> None:
    effects = [zero(shifted(drawn(n, 6), 0.3))[2].effect for n in (16, 64, 256)]
    assert effects == pytest.approx([0.3] * 3, abs=0.08)


def test_layers_without_live_channels_pass() -> None:
    values = drawn(30, 0)
    empty = np.empty((30, 0))
    tests = tier0.judge([empty, values], [Expected(600.0)] * 2)
    assert not tests[0].significant
    p, layers = tier1.judge(values[:10], values[10:], (0, values.shape[1]), deals=99)
    assert 0 < p <= 1
    assert layers[0].p == 1.0


def test_constant_channels_prove_nothing() -> None:
    values = np.zeros((40, 5), dtype=np.float32)
    p, tests = tier1.judge(values[:10], values[10:], (5,), deals=99)
    assert p == 1.0
    assert not tests[0].significant


def test_distances_are_those_of_the_definition() -> None:
    random = np.random.default_rng(7)
    contrasts = random.normal(size=(30, 4)).astype(np.float32)
    for channels in (1, 8, 29, 30, 31, 90):
        scores = normal_scores(random.normal(size=(30, channels)) @ random.normal(size=(channels, channels)))
        gram = (scores @ scores.T / channels).astype(np.float64)
        ridge = tier1.RIDGE * np.trace(gram) / min(29, channels)
        smooth = gram @ np.linalg.inv(gram + ridge * np.eye(30))
        squares, diagonal = tier1._distances(scores, contrasts, scores.T @ contrasts)
        assert squares == pytest.approx(np.einsum("id,ij,jd->d", contrasts, smooth, contrasts), rel=1e-4)
        assert diagonal == pytest.approx(np.diagonal(smooth), abs=1e-5)


def test_frames_of_the_baseline_itself_are_no_drift() -> None:
    """Twice in the pool they would lie closer to the others than what is there once."""
    before = drawn(64, 1)
    for known in (before[:32], before[32:], before[::2], before):
        p, tests = tier1.judge(known, before, SIZES, deals=199)
        assert p > 0.05
        assert not any(test.significant for test in tests)
    p, _ = tier1.judge(shifted(before[:32], 0.5), before, SIZES, deals=199)
    assert p < 0.05


@pytest.mark.parametrize("frames", [8, 16])
def test_few_frames_of_skewed_channels_do_not_alarm(frames: int) -> None:
    """Of windows of 8 most show none of the rare frames, and a small deviation around another mean."""

    def skewed(seed: int) -> Array:
        random = np.random.default_rng(seed)
        rare = random.gamma(0.15, 1.0, (frames, 4)) - 0.15  # mean 0, skewness 5
        return np.asarray(0.6 * rare @ np.random.default_rng(1).normal(size=(4, 40)))

    alarms = sum(tier0.judge([skewed(seed)], [Expected(600.0)])[0].significant for seed in range(300))
    assert alarms <= 7  # at 1%: 3 expected, more than 7 with p = 0.01


def contrasts(seed: int, frames: int, spread: float) -> Array:
    """Second moments of frames that differ in contrast: in the mean the variance, held by few."""
    random = np.random.default_rng(seed)
    contrast = np.exp(spread * random.normal(size=(frames, 1)) - spread**2 / 2)
    own = random.gamma(20, 1 / 20, (frames, 24))  # of each channel
    return np.asarray((contrast * own - 1) / np.sqrt(2))


@pytest.mark.parametrize("frames", [16, 64])
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_second_moments_of_unlike_contrasts_do_not_alarm(frames: int, spread: float) -> None:
    squares = [Expected(600.0, squares=True)]
    windows = [contrasts(seed, frames, spread) for seed in range(300)]
    alarms = sum(tier0.judge([window], squares)[0].significant for window in windows)
    assert alarms <= 7  # at 1%: 3 expected, more than 7 with p = 0.01


def test_second_moments_show_what_changes_them() -> None:
    """More or less of them, and what a small batch explains is none."""
    squares = Expected(600.0, squares=True)
    window = contrasts(1, 64, 0.3)
    for by in (-0.17, 0.3):
        (test,) = tier0.judge([window + by], [squares])
        assert test.by == ("scale",)
        assert test.effect == pytest.approx(abs(by), abs=0.06)
        assert test.limit == tier0.MARGIN
    (explained,) = tier0.judge([window + 0.3], [replace(squares, bias=0.25)])
    assert explained.by == ()
    assert explained.limit == tier0.MARGIN + 0.25
    assert tier0.possible(window, (24,), [squares])


def test_layers_that_are_each_a_little_less_sure_count_together() -> None:
    """Ten layers, each moved by less than a test for ten layers needs."""

    def judged(by: float, moved: int) -> list[LayerTest]:
        plain = 0.5 * np.random.default_rng(5).normal(size=(64, 30))
        plain -= plain.mean(axis=0)  # so that chance does not decide
        layers = [plain + by * (k < moved) for k in range(10)]
        return tier0.judge(layers, [Expected(600.0)] * 10)

    steps = np.linspace(0.05, 0.2, 61)
    least = [next(by for by in steps if any(t.significant for t in judged(by, moved))) for moved in (1, 10)]
    assert least[1] < least[0]
    together = judged(float(least[1]), 10)
    assert all(test.significant and test.by == ("shift",) for test in together)
    assert all(test.strength < 1 for test in together)  # none of them alone
    assert not any(test.significant for test in judged(float(least[1]), 1))


def test_p_values_and_thresholds_say_the_same() -> None:
    for seed in range(20):
        values = shifted(drawn(64, seed), 0.02 * seed)
        for part in split(values):
            for tail in (1e-2, 1e-4):
                found = tier0._shift(part, 1 / 64 + 1 / 600, 0.05, tail)
                assert (found.p <= tail) == (found.strength >= 1)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("alpha", [0.004, 0.02])
def test_what_cannot_be_found_is_known_beforehand(alpha: float, single: bool) -> None:
    """No window that is judged to differ is called impossible; most of those without drift are."""
    sizes = (60,) if single else SIZES
    expected = [Expected(600.0, single=single)] * len(sizes)
    calm, found = 0, 0
    for seed in range(120):
        values = unit(32, seed) if single else drawn(32, seed, heavy=seed % 3 == 0)
        if seed % 2:
            strength = 0.01 * seed
            values = shifted(values, strength, channels=slice(seed % 7, None, 1 + seed % 5))
            values = values * (1 + (seed % 4 == 1) * strength)
        possible = tier0.possible(values, sizes, expected, alpha=alpha)
        parts = [values] if single else split(values)
        differs = any(test.significant for test in tier0.judge(parts, expected, alpha=alpha))
        assert possible or not differs
        calm += not possible
        found += differs
    assert found >= 20
    assert calm >= 30
    one = [Expected(600.0, single=single)]
    assert tier0.possible(unit(32, 0), (60,), one, alpha=0.5)  # too large for a bound
