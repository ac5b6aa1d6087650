"""The frames that a diagnosis works on: those that can be used, in batches like those of a training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bnfold.statistics.batches import Batch, Unusable, join

BATCH = 32
"""Frames in a batch, at least, where the frames can be put together: batches of one are no training."""

MOST_BYTES = 2**30
"""Of frames that are kept; a diagnosis needs hundreds of frames, not all of them."""


@dataclass
class Collected:
    """What was given.

    Attributes:
        batches: with usable frames only.
        unusable: the frames that were left out.
        complete: whether all batches were read; False where they take more than `MOST_BYTES`.
    """

    batches: list[Batch] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)
    complete: bool = True

    @property
    def frames(self) -> int:
        return sum(batch.frames for batch in self.batches)

    @property
    def smallest(self) -> int:
        """Frames in the smallest batch: a batch of one normalises a frame by itself."""
        return min((batch.frames if batch.batched else 1 for batch in self.batches), default=0)


def collect(batches: Iterable[Batch]) -> Collected:
    """Read the batches once, leave out what cannot be used, and regroup the rest."""
    found = Collected()
    held = 0
    for batch in batches:
        if held > MOST_BYTES:
            found.complete = False
            break
        bad = batch.unusable()
        found.unusable += bad
        good = batch.without(bad)
        if good is not None:
            found.batches.append(good)
            held += sum(tensor.numel() * tensor.element_size() for _, tensor in good.tensors())
    found.batches = regrouped(found.batches)
    return found


def regrouped(batches: list[Batch], size: int = BATCH) -> list[Batch]:
    """Neighbours put together until there are ``size`` frames; a small rest goes to the last of them.

    Frames of different shapes stay apart.
    """
    groups: list[list[Batch]] = []
    for batch in batches:
        last = groups[-1] if groups else None
        if last and sum(one.frames for one in last) < size and _fit(last[0], batch):
            last.append(batch)
        else:
            groups.append([batch])
    if (
        len(groups) > 1
        and sum(one.frames for one in groups[-1]) < size
        and _fit(groups[-2][0], groups[-1][0])
    ):
        rest = groups.pop()
        groups[-1] += rest
    return [join(group) for group in groups]


def _fit(one: Batch, other: Batch) -> bool:
    """Whether two batches can be joined."""
    try:
        join([one.select([0]), other.select([0])])
    except ValueError:
        return False
    return True
