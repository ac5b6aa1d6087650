from __future__ import annotations

import numpy as np
import pytest
import torch

from bnfold.statistics.moments import Moments
from bnfold.statistics.packed import Gathered, Packed, Total
from bnfold.statistics.reduction import Reducer
from bnfold.statistics.targets import Target

KEYS = [Target(name, name, name) for name in "abc"]
READ = [(torch.zeros(1), torch.ones(1)) for _ in KEYS]


def calls(seed: int, frames: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(frames, 3), (frames, 2, 5), (frames, 4, 2, 2)]
    return [torch.randn(shape, generator=generator) * 0.01 + 50 for shape in shapes]


@pytest.mark.parametrize("sizes", [[4], [4, 9, 1], [1 + n % 5 for n in range(50)]])
def test_batches_of_unequal_size_are_merged_each_call_by_itself(sizes: list[int]) -> None:
    reduce, gathered = Reducer(), Gathered()
    batches = [calls(seed, frames) for seed, frames in enumerate(sizes)]
    total = None
    for batch in batches:
        gathered.clear()
        for number, values in enumerate(batch):
            reduce(values, gathered.room(*READ[number], KEYS[number], values))
        packed = gathered.packed()
        total = total or Total(packed)
        total.add(packed)
    assert total is not None
    for one, *values in zip(total.packed().split(), *batches, strict=True):
        rows = np.concatenate([v.movedim(1, -1).reshape(-1, v.shape[1]).numpy() for v in values])
        exact = rows.astype(np.longdouble)
        mean = exact.mean(axis=0)
        assert one.count == len(rows)
        np.testing.assert_allclose(one.mean, mean.astype(float), rtol=1e-14)
        np.testing.assert_allclose(one.m2, np.square(exact - mean).sum(axis=0).astype(float), rtol=1e-12)


def test_a_total_goes_on_after_it_was_read() -> None:
    parts = [Packed([n], [1], np.array([[float(n)], [1.0]])) for n in (1, 2, 3)]
    total = Total(parts[0])
    total.add(parts[0])
    total.add(parts[1])
    first = total.packed()
    total.add(parts[2])
    (one,) = total.packed().split()
    assert one.count == 6
    np.testing.assert_allclose(one.mean, [14 / 6])
    assert first.counts == [3]
    np.testing.assert_allclose(first.both[:, 0], [5 / 3, 1 + 2 / 9])


def test_calls_without_values() -> None:
    nothing = Packed([0, 2], [1, 1], np.array([[0.0, 5.0], [0.0, 1.0]]))
    total = Total(nothing)
    total.add(nothing)
    total.add(nothing)
    empty, full = total.packed().split()
    assert (empty.count, empty.mean.tolist(), empty.m2.tolist()) == (0, [0.0], [0.0])
    assert (full.count, full.mean.tolist(), full.m2.tolist()) == (4, [5.0], [4.0])
    assert Packed.of([]).split() == []


def test_a_batch_takes_the_memory_of_the_one_before_and_leaves_its_result_alone() -> None:
    gathered = Gathered()
    statistics = {key: (torch.zeros(1), torch.ones(1)) for key in "ab"}

    def run(*values: float, width: int = 2, key: str = "a") -> Packed:
        gathered.clear()
        for value in values:
            constant = torch.full((1, width), value)
            room = gathered.room(*statistics[key], Target(key, key, key), constant)
            room.count = 3
            room.mean.fill_(value)
            room.variance.fill_(value + 1)
        return gathered.packed()

    first = run(1.0, 2.0)
    memory = [step.room.mean.data_ptr() for step in gathered._steps]
    assert memory[1] - memory[0] == 2 * 8  # side by side
    second = run(3.0)
    again = run(7.0, 8.0)
    assert [step.room.mean.data_ptr() for step in gathered._steps] == memory
    third = run(4.0, 5.0, 6.0, width=1, key="b")  # another way through the network
    assert first.both.tolist() == [[1, 1, 2, 2], [2, 2, 3, 3]]
    assert second.both.tolist() == [[3, 3], [4, 4]]
    assert again.both.tolist() == [[7, 7, 8, 8], [8, 8, 9, 9]]
    assert third.both.tolist() == [[4, 5, 6], [5, 6, 7]]
    assert third.widths == [1, 1, 1]


def test_limits() -> None:
    packed = Packed.of([Reducer()(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))])  # means 2, 20; variances 1, 100
    assert packed.fits(np.array([[2.0, 20.0], [1.0, 100.0]]))
    assert not packed.fits(np.array([[1.9, 20.0], [1.0, 100.0]]))
    assert not packed.fits(np.array([[2.0, 20.0], [1.0, 99.0]]))
    assert packed.fits(np.array([[2.0, 20.0], [1.0, 100.0]]), 1.0)  # the quick answer is no
    assert packed.fits(np.full((2, 2), 103.0), 103.0)  # it is yes
    for value in (np.nan, np.inf, -np.inf):
        bad = Packed.of([Reducer()(torch.tensor([[1.0, value], [3.0, 30.0]]))])
        largest = float(np.finfo(np.float64).max)
        assert not bad.fits(np.full((2, 2), largest))
        assert not bad.fits(np.full((2, 2), largest), largest)


def test_moments_of_one_batch() -> None:
    (one,) = Packed.of([Reducer()(torch.tensor([[1.0], [2.0], [6.0]]))]).split()
    expected = Moments.of(np.array([[1.0], [2.0], [6.0]]))
    assert one.count == 3
    np.testing.assert_allclose([one.mean, one.m2], [expected.mean, expected.m2], rtol=1e-14)
