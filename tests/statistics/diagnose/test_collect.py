from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from bnfold.statistics.batches import Batches
from bnfold.statistics.diagnose.collect import Collected, collect


def collected(*tensors: torch.Tensor) -> Collected:
    return collect(Batches(list(tensors), nn.Identity()))


@pytest.mark.parametrize(
    ("sizes", "grouped"),
    [
        ([32, 32, 8], [36, 36]),
        ([1] * 70, [35, 35]),
        ([5], [5]),
        ([20, 20, 20, 20], [40, 40]),
        ([128, 4], [132]),
        ([128, 128, 100], [178, 178]),
        ([32, 32, 32], [32, 32, 32]),
    ],
)
def test_batches_are_put_together_and_every_frame_stays_once(sizes: list[int], grouped: list[int]) -> None:
    frames = torch.arange(float(sum(sizes)))[:, None]
    found = collected(*frames.split(sizes))
    assert [batch.frames for batch in found.batches] == grouped
    values = torch.cat([batch.arguments[0] for batch in found.batches])
    assert torch.equal(values.sort(dim=0).values, frames)
    names = [name for batch in found.batches for name in batch.names]
    assert names == [f"frame {int(value)}" for value in values]
    assert (found.frames, found.smallest) == (sum(sizes), min(grouped))


def test_sorted_frames_are_dealt_out() -> None:
    """Of a hundred frames in the order of ten classes, each batch has all the classes."""
    labels = torch.arange(100)[:, None] // 10 * torch.ones(1, 2)
    found = collected(*labels.split(25))
    assert len(found.batches) == 3
    assert all(len(set(batch.arguments[0][:, 0].tolist())) == 10 for batch in found.batches)


def test_frames_of_different_shapes_stay_apart() -> None:
    found = collected(*[torch.zeros(1, 3, size) for size in (4, 4, 5, 4)])
    assert [batch.frames for batch in found.batches] == [3, 1]
    assert found.smallest == 1


def test_unusable_frames_are_left_out() -> None:
    x = torch.zeros(6, 2)
    x[4, 1] = float("nan")
    found = collected(x[:3], x[3:], torch.full((1, 2), 1e20))
    assert found.frames == 5
    assert [one.frame for one in found.unusable] == ["frame 4", "frame 6"]


def test_it_stops_reading_where_frames_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # the package has the function under the module's name
    monkeypatch.setattr(sys.modules[collect.__module__], "MOST_BYTES", 100)
    found = collected(*[torch.zeros(4, 4) for _ in range(10)])
    assert (found.frames, found.complete) == (8, False)
