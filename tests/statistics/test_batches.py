from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bnfold.errors import UsageError
from bnfold.signature import TensorSpec
from bnfold.statistics.batches import LARGEST, Batch, Batches, SampleBatches, join


class One(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        return left - scale * right


class Optional(nn.Module):
    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        return image if mask is None else image * mask


def results(source: Any, module: nn.Module) -> list[Any]:
    return [batch.run(module).tolist() for batch in Batches(source, module)]


X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_a_batch_is_given_to_forward_as_it_stands() -> None:
    assert results([X], One()) == [X.tolist()]
    assert results(X, One()) == [X.tolist()]
    assert results([X.numpy()], One()) == [X.tolist()]
    assert results([(X,)], One()) == [X.tolist()]
    assert results([{"image": X}], One()) == [X.tolist()]
    assert results([(X, 2 * X), [X, X, 3.0]], Two()) == [(-X).tolist(), (-2 * X).tolist()]
    assert results([{"right": X, "left": 2 * X}], Two()) == [X.tolist()]


def test_the_targets_of_a_data_loader_are_left_out() -> None:
    labels = torch.tensor([0, 1, 2])
    loader = DataLoader(TensorDataset(X, labels), batch_size=2)
    assert results(loader, One()) == [X[:2].tolist(), X[2:].tolist()]
    assert results([(X, torch.rand(3))], One()) == [X.tolist()]  # of a regression
    assert results([(X, labels)], Optional()) == [X.tolist()]
    assert results([(X, torch.zeros(3, 2))], Optional()) == [(0 * X).tolist()]  # that is a mask
    assert results([{"image": X, "labels": labels}], One()) == [X.tolist()]


def test_frames_are_numbered_over_all_batches() -> None:
    batches = list(Batches([X, X[:2]], One()))
    names = [tuple(batch.names) for batch in batches]
    assert names == [("frame 0", "frame 1", "frame 2"), ("frame 3", "frame 4")]
    assert [batch.number for batch in batches] == [0, 1]
    joined = join(batches)
    assert joined.names == tuple(f"frame {i}" for i in range(5))
    assert torch.equal(joined.arguments[0], torch.cat([X, X[:2]]))


def test_frames_are_chosen_and_made_louder() -> None:
    (batch,) = Batches([(X, 2 * X, 0.5)], Two())
    assert batch.select([2, 0, 0]).arguments[0].tolist() == [[5, 6], [1, 2], [1, 2]]
    assert batch.select([2, 0]).names == ("frame 2", "frame 0")
    loud = batch.scaled([1], 10.0)
    assert loud.arguments[0].tolist() == [[1, 2], [30, 40], [5, 6]]
    assert loud.arguments[2] == 0.5
    assert batch.arguments[0].tolist() == X.tolist()


def test_frames_of_different_shape_are_not_joined() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        join(list(Batches([X, X[:, :1]], One())))
    (batch,) = Batches([(X, X[:2])], Two())
    assert (batch.batched, batch.frames) == (False, 1)
    with pytest.raises(ValueError, match="no first axis"):
        batch.select([0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_an_unusable_frame_is_named_and_left_out(value: float, dtype: torch.dtype) -> None:
    bad = torch.ones(3, 2, 2, dtype=dtype)
    bad[1, 0, 1] = value
    first, second = Batches([torch.ones(4, 2, 2), bad], One())
    assert first.unusable() == []
    assert first.without([]) is first
    (found,) = second.unusable()
    assert (found.frame, found.batch, found.index, found.input, found.values) == ("frame 5", 1, 1, "image", 1)
    assert found.describe().startswith("frame 5 (batch 1, frame 1): 1 value of image is ")
    rest = second.without([found])
    assert rest is not None
    assert rest.names == ("frame 4", "frame 6")
    assert rest.unusable() == []
    assert second.select([1]).without(second.select([1]).unusable()) is None


def test_what_is_just_usable_is_used() -> None:
    (batch,) = Batches([torch.tensor([[0.99 * LARGEST], [1.01 * LARGEST]])], One())
    assert [one.index for one in batch.unusable()] == [1]


def test_integers_are_always_usable() -> None:
    (batch,) = Batches([torch.full((2, 2), 2**62)], One())
    assert batch.unusable() == []


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("frames", "BNF-U080"),
        (3, "BNF-U080"),
        ([], "BNF-U080"),
        ([(X, X, X)], "BNF-U082"),
        ([{"picture": X, "scale": 1.0}], "BNF-U082"),
        ([3.0], "BNF-U082"),
        ([()], "BNF-U082"),
        ([torch.zeros(0, 2)], "BNF-U082"),
    ],
)
def test_what_does_not_fit_is_refused(source: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(Batches(source, One()))
    assert caught.value.code == code


def test_a_generator_is_refused_where_the_batches_are_needed_again() -> None:
    assert len(list(Batches((x for x in [X]), One()))) == 1
    with pytest.raises(UsageError) as caught:
        Batches((x for x in [X]), One(), again=True)
    assert caught.value.code == "BNF-U081"
    twice = Batches([X], One(), again=True)
    assert len(list(twice)) == len(list(twice)) == 1


def test_samples_keep_their_names_and_what_is_not_finite(tmp_path: Path) -> None:
    array = np.arange(10, dtype=np.float32).reshape(5, 2)
    array[3, 1] = np.nan
    np.save(tmp_path / "x.npy", array)
    samples = SampleBatches(str(tmp_path / "x.npy"), (TensorSpec("image", (1, 2), "float32"),), size=2)
    assert (len(samples), samples.frames) == (2, 5)  # no frame is left by itself
    for _ in range(2):
        batches: list[Batch] = list(Batches(samples, One(), again=True))
        assert [batch.frames for batch in batches] == [2, 3]
        assert batches[1].names == ("x.npy[2]", "x.npy[3]", "x.npy[4]")
        assert [one.frame for batch in batches for one in batch.unusable()] == ["x.npy[3]"]
        assert batches[0].run(One()).tolist() == [[0, 1], [2, 3]]


def test_some_of_the_batches_are_the_same_batches(tmp_path: Path) -> None:
    array = np.arange(22, dtype=np.float32).reshape(11, 2)
    np.savez(tmp_path / "x.npz", image=array, labels=np.arange(11))
    spec = (TensorSpec("image", (1, 2), "float32"),)
    samples = SampleBatches(str(tmp_path / "x.npz"), spec, size=3)
    spread = list(SampleBatches(str(tmp_path / "x.npz"), spec, size=3, spread=True))
    assert [batch.labels.tolist() for batch in spread if batch.labels is not None] == [
        [0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7],
    ]  # fmt: skip
    every = list(samples)
    assert [batch.frames for batch in every] == [3, 3, 3, 2]
    parts = [list(samples.select(lambda number, rank=rank: number % 3 == rank)) for rank in range(3)]
    assert [[batch.number for batch in part] for part in parts] == [[0, 3], [1], [2]]
    for batch in (batch for part in parts for batch in part):
        same = every[batch.number]
        assert batch.names == same.names
        assert torch.equal(batch.keywords["image"], same.keywords["image"])
        assert batch.labels is not None
        assert batch.labels.tolist() == (batch.keywords["image"][:, 0] / 2).tolist()


def test_labels_come_along() -> None:
    labels = torch.tensor([2, 0, 1])
    for item in ((X, labels), {"image": X, "labels": labels}):
        (batch,) = Batches([item], One())
        assert batch.labels is labels
        assert batch.select([2, 0]).labels.tolist() == [1, 2]  # type: ignore[union-attr]
    (batch,) = Batches([(X, torch.rand(3))], One())
    assert batch.labels is None


def test_names_are_counted_through_all_batches() -> None:
    first, second = Batches([torch.zeros(2, 3), torch.zeros(3, 3)], nn.Linear(3, 1))
    assert list(first.names) == ["frame 0", "frame 1"]
    assert len(second.names) == 3
    assert second.names[-1] == "frame 4"
    assert second.names[1:] == ("frame 3", "frame 4")
    with pytest.raises(IndexError):
        second.names[3]
