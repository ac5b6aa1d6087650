from __future__ import annotations

import numpy as np
import pytest
import torch

from bnfold.statistics import reduction
from bnfold.statistics.reduction import BatchMoments, Reducer


def exact(values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """In extended precision."""
    rows = values.movedim(1, -1).reshape(-1, values.shape[1]).numpy().astype(np.longdouble)
    mean = rows.mean(axis=0)
    return mean.astype(float), ((rows - mean) ** 2).sum(axis=0).astype(float)


SHAPES = [(7, 3), (90, 3), (1, 3), (5, 4, 1, 1), (3, 5, 7), (4, 3, 6, 5), (2, 3, 4, 5, 6), (1, 2, 9, 40)]


@pytest.mark.parametrize("piece", [1 << 18, 7, 64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_moments_are_exact_whatever_the_pieces(
    shape: tuple[int, ...], dtype: torch.dtype, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "_PIECE", piece)
    monkeypatch.setattr(reduction, "_IN_A_ROW", 31)
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 50).to(dtype)
    before = values.clone()
    found = Reducer()(values)
    mean, m2 = exact(values)
    torch.testing.assert_close(found.rounded, found.both.float(), rtol=0, atol=0)
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


@pytest.mark.parametrize("laid_out", ["rows", "small", "last", "1x1"])
def test_what_is_added_in_a_row_stays_short_of_the_rounding(laid_out: str) -> None:
    """Rounding that always goes the same way grows with the number of values, where nothing divides them."""
    value = 0.1
    shape = {"rows": (1 << 20, 2), "small": (1 << 14, 1), "last": (4, 1, 512, 513), "1x1": (1 << 20, 2, 1, 1)}
    values = torch.full(shape[laid_out], value, dtype=torch.float64)
    if laid_out == "last":
        values = values.expand(4, 3, 512, 513).contiguous(memory_format=torch.channels_last)
    found = Reducer()(values)
    np.testing.assert_allclose(found.mean.numpy(), value, rtol=1e-12)
    np.testing.assert_allclose(found.variance.numpy(), 0, atol=1e-24)


@pytest.mark.parametrize(("mean", "deviation"), [(50.0, 0.01), (-3e4, 0.01), (0.0, 1e-3), (1e-9, 1e6)])
@pytest.mark.parametrize("shape", [(3000, 4), (64, 3, 8, 8), (2, 3, 64, 64), (3, 2, 1000)])
def test_float32_values_whatever_their_mean(mean: float, deviation: float, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    values = mean + deviation * torch.randn(shape, generator=generator)
    found = Reducer()(values)
    expected, m2 = exact(values)
    spread = np.sqrt(m2 / found.count)
    assert (np.abs(found.mean.numpy() - expected) <= 1e-13 * (np.abs(expected) + spread)).all()
    np.testing.assert_allclose(found.variance.numpy() * found.count, m2, rtol=1e-12)


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


def test_moments_are_put_where_they_are_wanted_rounded_to_the_dtype_of_the_layer() -> None:
    reduce = Reducer()
    for values in (torch.randn(40, 3) + 50, torch.randn(4, 3, 5, 6), torch.randn(4, 3, 5, 6)[..., ::2]):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            room = BatchMoments.room(values, dtype)
            assert reduce(values, room) is room
            mean, m2 = exact(values)
            np.testing.assert_allclose(room.both, np.stack([mean, m2 / room.count]), rtol=1e-12)
            assert torch.equal(torch.stack(room.rows), room.both.to(dtype))


def test_no_gradient_is_kept() -> None:
    reduce = Reducer()
    values = torch.randn(40, 3, 5)
    for one in (values, values.clone().requires_grad_()):  # of a shape that is known, too
        found = reduce(one)
        assert not found.both.requires_grad
        np.testing.assert_allclose(found.mean, exact(values)[0], rtol=1e-12)


def test_values_of_one_shape_in_another_layout() -> None:
    reduce = Reducer()
    values = torch.randn(4, 3, 6, 5)
    for one in (values, values.to(memory_format=torch.channels_last), values, values.mT.contiguous().mT):
        found = reduce(one)
        mean, m2 = exact(values)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-13)
        np.testing.assert_allclose(found.variance * found.count, m2, rtol=1e-12)


def test_rows_off_the_cpu() -> None:
    """No single operator does it there; the arithmetic of the others can be looked at here."""
    values = 50 + 0.01 * torch.randn(300, 4)
    space = Reducer()._space(values)._replace(device=0)
    found = reduction._reduced(values, space, BatchMoments.room(values))
    mean, m2 = exact(values)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(found.variance * 300, m2, rtol=1e-12)
