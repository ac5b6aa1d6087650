"""What is left out of the statistics, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from bnfold.statistics.batches import Batch, Unusable
from bnfold.statistics.observe import Call

Guard = Literal["batch", "frame"]


@dataclass(frozen=True)
class Skipped:
    """A batch, or frames of one, that no layer's statistics have seen.

    Attributes:
        batch: its number, from 0.
        frames: names of the frames to blame; of all of them where none can be told.
        index: their places in the batch, from 0.
        whole: whether the whole batch was left out.
        where: the input or the layer where it showed.
        reason: what is wrong with it, after the name of the frame.
        inside: whether it showed at a layer, and not in the input.
        lone: whether nothing is wrong with it but its size.
    """

    batch: int
    frames: tuple[str, ...]
    index: tuple[int, ...]
    whole: bool
    where: str
    reason: str
    inside: bool = False
    lone: bool = False

    def describe(self) -> str:
        """``scan_012.npy (batch 3): 1 value of x is nan``."""
        names = ", ".join(self.frames[:3]) + (
            f" and {len(self.frames) - 3} more" if len(self.frames) > 3 else ""
        )
        return f"{names} (batch {self.batch}): {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "batch": self.batch,
            "frames": list(self.frames),
            "index": list(self.index),
            "whole_batch": self.whole,
            "where": self.where,
            "reason": self.reason,
        }


def unusable(batch: Batch, found: Sequence[Unusable], guard: Guard) -> Skipped:
    """Frames with values in the input that no statistics survive."""
    rows = sorted({one.index for one in found})
    first = found[0]
    reason = first.describe().partition("): ")[2]
    whole = guard == "batch" or not batch.batched or len(rows) == batch.frames
    return Skipped(
        batch.number, tuple(batch.names[row] for row in rows), tuple(rows), whole, first.input, reason
    )


def lone(batch: Batch, where: str) -> Skipped:
    """A batch with one value per channel at a call."""
    reason = f"one value per channel at {_named(where)}: it cannot be normalised by itself"
    index = tuple(range(batch.frames))
    return Skipped(batch.number, tuple(batch.names), index, True, where, reason, inside=True, lone=True)


def _named(call: str) -> str:
    """A call's name in a sentence; the one whose name is empty is the whole network."""
    return call or "the BatchNorm"


def culprits(call: Call, frames: int) -> tuple[list[int], str]:
    """The frames whose values make a call's statistics unusable, where the first axis counts the frames."""
    values = call.input.detach()
    finite = bool(torch.isfinite(values).all())
    where = _named(call.name)
    reason = f"its variance at {where} overflows" if finite else f"a value at {where} is not finite"
    if values.shape[0] != frames:
        return [], reason
    rows = values.reshape(frames, -1)
    if finite:
        return [int(rows.abs().amax(dim=1).argmax())], reason
    return torch.nonzero(~torch.isfinite(rows).all(dim=1)).flatten().tolist(), reason
