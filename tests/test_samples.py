"""Samples -> model inputs: values, order, batches, labels and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnfold.errors import InputError, VerifyError
from bnfold.samples import frames_of, random_frames
from bnfold.signature import TensorSpec

X = TensorSpec("x", (1, 3), "float32")
IMAGE = TensorSpec("image", (1, 1, 2, 2), "float32")
GRAY = {"layout": "NCHW", "color": "gray", "resize": "stretch", "scale": 0.5, "mean": [1.0], "std": [2.0]}


def arrays(samples: Any, *inputs: TensorSpec, **options: Any) -> list[dict[str, np.ndarray]]:
    return list(frames_of(samples, inputs, **options))


def test_floats_are_used_as_they_are_with_a_batch_axis_added() -> None:
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    calls = arrays(given, X)
    assert [call["x"].tolist() for call in calls] == [[[0, 1, 2]], [[3, 4, 5]]]
    assert calls[0]["x"].dtype == np.float32


def test_uint8_frames_are_prepared_as_the_normalisation_says() -> None:
    given = np.array([[[0, 2], [4, 250]]], np.uint8)
    [call] = arrays(given, IMAGE, normalisation={"image": GRAY})
    assert call["image"].tolist() == [[[[-0.5, 0.0], [0.5, 62.0]]]]  # (pixel * 0.5 - 1) / 2


def test_uint8_frames_without_a_normalisation_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        arrays(np.zeros((1, 2, 2), np.uint8), IMAGE)
    assert caught.value.code == "BNF-R014"


def test_a_fixed_batch_takes_its_frames_together_and_repeats_the_first() -> None:
    spec = TensorSpec("x", (2, 1), "float32")
    calls = arrays(np.array([[1.0], [2.0], [3.0]], np.float32), spec)
    assert [call["x"].ravel().tolist() for call in calls] == [[1, 2], [3, 1]]


def test_fewer_are_filled_up_with_seeded_frames_within_the_range_of_the_first() -> None:
    given = np.array([[1.0, 2.0, 3.0]], np.float32)
    first, again = (arrays(given, X, at_least=16) for _ in range(2))
    assert len(first) == 16
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, again, strict=True))
    rest = np.concatenate([call["x"] for call in first[1:]])
    assert rest.min() >= 1
    assert rest.max() <= 3
    assert len(np.unique(rest)) > 10


def test_a_dictionary_by_name_with_labels() -> None:
    y = TensorSpec("y", (1,), "int64")
    found = frames_of({"y": np.array([7, 8]), "x": np.ones((2, 3)), "labels": [1, 0]}, (X, y))
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]
    assert [call["y"].tolist() for call in found] == [[7], [8]]
    assert [call["x"].dtype for call in found] == [np.float32, np.float32]


def test_tuples_in_the_order_of_the_inputs_and_tensors() -> None:
    y = TensorSpec("y", (1, 1), "float32")
    [call] = arrays([(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[9.0]]))], X, y)
    assert call["x"].tolist() == [[1, 2, 3]]
    assert call["y"].tolist() == [[9]]


def test_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    np.savez(tmp_path / "x.npz", x=np.arange(6, dtype=np.float32).reshape(2, 3), labels=np.array([2, 1]))
    assert [call["x"].tolist() for call in arrays(tmp_path / "x.npy", X)] == [[[0, 1, 2]], [[3, 4, 5]]]
    found = frames_of(str(tmp_path / "x.npz"), (X,))
    assert (found.given, found.labels.tolist()) == (2, [2, 1])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("samples", "code"),
    [
        (np.zeros((0, 3), np.float32), "BNF-V021"),
        (3.0, "BNF-V021"),
        ({"x": np.ones((2, 3)), "y": np.ones((2, 3))}, "BNF-V022"),
        ({"x": np.ones((2, 3)), "labels": np.zeros(3, np.int64)}, "BNF-V026"),
        ({"x": np.ones((2, 3)), "labels": np.zeros(2)}, "BNF-V026"),
        (np.zeros((2, 4), np.float32), "BNF-V023"),
        (np.zeros((2, 3), np.int64), "BNF-V024"),
        (np.array([[1.0, np.nan, 0.0]], np.float32), "BNF-V025"),
        (np.array([[1.0, np.inf, 0.0]], np.float32), "BNF-V025"),
    ],
)
def test_refusals(samples: Any, code: str) -> None:
    with pytest.raises(VerifyError) as caught:
        arrays(samples, X)
    assert caught.value.code == code


def test_random_frames_follow_the_example() -> None:
    specs = (TensorSpec("a", (None, 4), "float32"), TensorSpec("i", (1, 50), "int64"))
    example = {"a": np.array([[10.0, 12.0, 14.0, 16.0]], np.float32), "i": np.array([[2, 5] * 25])}
    found = random_frames(specs, example, 16)
    calls, again = list(found), list(random_frames(specs, example, 16))
    assert (found.source, found.given, len(calls)) == ("random", 0, 16)
    assert all(np.array_equal(a["a"], b["a"]) for a, b in zip(calls, again, strict=True))
    drawn = np.concatenate([call["a"] for call in calls])
    assert drawn.shape == (16, 4)
    assert drawn.min() >= 10
    assert drawn.max() <= 16
    assert abs(drawn.mean() - 13) < 1
    assert set(np.unique(np.concatenate([call["i"] for call in calls]))) == {2, 3, 4, 5}


def test_a_constant_example_gives_a_standard_normal() -> None:
    [call] = list(random_frames((TensorSpec("x", (1, 4000), "float32"),), {"x": np.zeros((1, 4000))}, 1))
    assert abs(call["x"].mean()) < 0.1
    assert abs(call["x"].std() - 1) < 0.1
