from __future__ import annotations

import numpy as np
import torch

from bnfold.statistics.moments import Moments
from bnfold.statistics.packed import Packed
from bnfold.statistics.reduction import Reducer


def calls(seed: int, frames: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(frames, 3), (frames, 2, 5), (frames, 4, 2, 2)]
    return [torch.randn(shape, generator=generator) * 2 + 7 for shape in shapes]


def test_several_calls_are_kept_and_merged_each_by_itself() -> None:
    reduce = Reducer()
    batches = [calls(0, 4), calls(1, 9), calls(2, 1)]
    packed = [Packed.of([reduce(values) for values in batch]) for batch in batches]
    total = packed[0] + packed[1] + packed[2]
    assert total.counts.tolist() == [14, 70, 56]
    for one, *values in zip(total.split(), *batches, strict=True):
        rows = np.concatenate([v.movedim(1, -1).reshape(-1, v.shape[1]).double().numpy() for v in values])
        expected = Moments.of(rows)
        assert one.count == expected.count
        np.testing.assert_allclose(one.mean, expected.mean, rtol=1e-14)
        np.testing.assert_allclose(one.m2, expected.m2, rtol=1e-13)
    assert Packed.of([]).split() == []


def test_limits() -> None:
    packed = Packed.of([Reducer()(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))])  # means 2, 20; variances 1, 100
    far = np.full(2, np.inf)
    assert packed.fits(np.array([2.0, 20.0]), np.array([1.0, 100.0]))
    assert not packed.fits(np.array([1.9, 20.0]), far)
    assert not packed.fits(far, np.array([1.0, 99.0]))
    for value in (np.nan, np.inf):
        assert not Packed.of([Reducer()(torch.tensor([[1.0, value], [3.0, 30.0]]))]).fits(far, far - 0)
