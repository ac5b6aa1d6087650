from __future__ import annotations

import numpy as np
import pytest
import torch

from bnfold.statistics import reduction
from bnfold.statistics.reduction import Reducer


def exact(values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """In extended precision."""
    rows = values.movedim(1, -1).reshape(-1, values.shape[1]).numpy().astype(np.longdouble)
    mean = rows.mean(axis=0)
    return mean.astype(float), ((rows - mean) ** 2).sum(axis=0).astype(float)


SHAPES = [(7, 3), (1, 3), (5, 4, 1, 1), (3, 5, 7), (4, 3, 6, 5), (2, 3, 4, 5, 6), (1, 2, 9, 40)]


@pytest.mark.parametrize(("piece", "small"), [(1 << 18, 0), (7, 0), (64, 0), (64, 1 << 20)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_moments_are_exact_whatever_the_pieces(
    shape: tuple[int, ...], dtype: torch.dtype, piece: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "_PIECE", piece)
    monkeypatch.setattr(reduction, "_SMALL", small)
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 50).to(dtype)
    before = values.clone()
    found = Reducer()(values)
    mean, m2 = exact(values)
    assert found.count == values.numel() // shape[1]
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=1e-14)
    np.testing.assert_allclose(found.variance.numpy() * found.count, m2, rtol=1e-12, atol=1e-24)
    assert torch.equal(values, before)


@pytest.mark.parametrize("shape", [(4, 3, 6, 5), (2, 3, 4, 5, 6)])
def test_any_memory_layout(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape)
    form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    mean, m2 = exact(values)
    for laid_out in (values.to(memory_format=form), values.transpose(2, 3).contiguous().transpose(2, 3)):
        found = Reducer()(laid_out)
        np.testing.assert_allclose(found.mean.numpy(), mean, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(found.variance.numpy() * found.count, m2, rtol=1e-12)


def test_a_small_deviation_around_a_large_mean() -> None:
    values = 50 + 0.01 * torch.randn(300, 2, 8, 8, dtype=torch.float64)
    found = Reducer()(values)
    np.testing.assert_allclose(found.variance.numpy(), values.var((0, 2, 3), unbiased=False), rtol=1e-12)


def test_no_values() -> None:
    found = Reducer()(torch.empty(0, 3, 2))
    assert (found.count, found.mean.tolist(), found.variance.tolist()) == (0, [0.0] * 3, [0.0] * 3)


def test_the_memory_is_used_again() -> None:
    """Results of one call are none of the next one's business."""
    reduce = Reducer()
    values = [torch.randn(40, 3, 50, 50), torch.randn(7, 5, 60, 60), torch.randn(40, 3, 50, 50).double()]
    found = [reduce(one) for one in values]
    for one, moments in zip(values, found, strict=True):
        mean, m2 = exact(one)
        np.testing.assert_allclose(moments.mean.numpy(), mean, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(moments.variance.numpy() * moments.count, m2, rtol=1e-12)
