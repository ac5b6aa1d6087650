"""The frames that a diagnosis works on: those that can be used, in batches like those of a training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

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
    """Batches of ``size`` frames or a few more, or as large as they were given; each is of the whole.

    The frames are dealt out by turns: samples are often in the order of their classes or of the patients, and
    a batch of neighbours would be no batch of a training. Frames of different shapes stay apart.
    """
    alike: dict[Any, list[Batch]] = {}
    for batch in batches:
        alike.setdefault(_shapes(batch), []).append(batch)
    return [dealt for group in alike.values() for dealt in _deal(group, size)]


def _deal(group: list[Batch], size: int) -> list[Batch]:
    if not all(batch.batched for batch in group):
        return group
    whole = join(group)
    hands = max(1, whole.frames // max(size, max(batch.frames for batch in group)))
    return [whole.select(range(first, whole.frames, hands)) for first in range(hands)]


def _shapes(batch: Batch) -> Any:
    """What batches must have in common to be joined."""
    leaves, structure = pytree.tree_flatten((batch.arguments, dict(batch.keywords)))
    kinds = tuple(
        (tuple(leaf.shape[1:]), leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves
    )
    return batch.batched or batch.number, str(structure), kinds
