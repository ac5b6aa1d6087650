from __future__ import annotations

import numpy as np
import pytest
import torch

from bnfold.statistics.diagnose.frames import FrameStatistics


def _data(count: int = 41, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(count, 3, 1, 1, generator=generator, dtype=torch.float64)
    return 50 + level + 0.01 * torch.randn(count, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sizes", [[41], [1, 40], [16, 16, 9]])
def test_moments_are_those_of_all_values_whatever_the_batches(sizes: list[int]) -> None:
    data = _data()
    seen = FrameStatistics()
    for part in data.split(sizes):
        seen.add(part.float() if len(sizes) == 1 else part)
    exact = (data.float() if len(sizes) == 1 else data).double().numpy()
    values = np.moveaxis(exact, 1, -1).reshape(-1, 3)
    means = exact.mean(axis=(2, 3))
    np.testing.assert_allclose(seen.mean, values.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(seen.variance, values.var(axis=0), rtol=1e-10)
    np.testing.assert_allclose(seen.between, means.var(axis=0, ddof=1), rtol=1e-10)
    np.testing.assert_allclose(seen.within, exact.var(axis=(2, 3)).mean(axis=0), rtol=1e-6)
    assert (seen.frames, seen.positions) == (41, 20)


def test_the_spread_of_the_variance_is_that_of_each_frame_s_share() -> None:
    data = _data(60)
    seen = FrameStatistics()
    for part in data.split(25):
        seen.add(part)
    centred = data.numpy() - data.numpy().mean(axis=(0, 2, 3), keepdims=True)
    share = np.square(centred).mean(axis=(2, 3))
    np.testing.assert_allclose(seen.variance_spread, share.var(axis=0, ddof=1), rtol=1e-8)


def test_the_errors_are_those_of_repeated_samples() -> None:
    """Over 400 samples of 30 frames the means and variances scatter as one sample says."""
    samples = [FrameStatistics() for _ in range(400)]
    for seed, sample in enumerate(samples):
        sample.add(_data(30, seed=seed + 1))
    for estimate, error in (
        ("mean", np.sqrt(np.mean([s.between for s in samples], axis=0) / 30)),
        ("variance", np.sqrt(np.mean([s.variance_spread for s in samples], axis=0) / 30)),
    ):
        scatter = np.std([getattr(sample, estimate) for sample in samples], axis=0)
        np.testing.assert_allclose(error, scatter, rtol=0.12)


def test_one_position_per_frame() -> None:
    seen = FrameStatistics()
    seen.add(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert seen.mean.tolist() == [2.0, 5.0]
    assert seen.variance.tolist() == [1.0, 0.0]
    assert seen.between.tolist() == [2.0, 0.0]


def test_what_is_not_finite_stays_so_in_its_channel() -> None:
    seen = FrameStatistics()
    data = torch.ones(4, 2, 3)
    data[1, 0, 0] = float("inf")
    seen.add(data)
    seen.add(torch.ones(2, 2, 3))
    assert seen.is_finite.tolist() == [False, True]
    assert seen.mean[1] == 1
