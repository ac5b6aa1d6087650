"""Frames for calibration: the user's own, prepared as for the parity check, under the file's own names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bnfold.channels_last import to_file
from bnfold.finding import Finding
from bnfold.inner_values import Feeds
from bnfold.samples import Frames
from bnfold.signature import TensorSpec
from bnfold.wording import count

MOST = 500
"""Frames whose ranges are taken, evenly spaced: of more, the others tell whether the ranges hold."""

FEW = 32
"""Fewer frames than these are no sample of what a device will see."""

LOOKED_INTO = 16
"""Frames that the losses of the layers are taken from."""


class Calls:
    """Some of the frames as what a model file takes; iterable again and again.

    Args:
        frames: the frames.
        names: bnfold's name of each input -> the file's own.
        most: how many calls, evenly spaced.
        moved: names of the inputs that the file takes channels last.
    """

    def __init__(
        self, frames: Frames, names: Mapping[str, str], most: int, moved: Collection[str] = ()
    ) -> None:
        self._frames, self._names, self._moved = frames, names, moved
        calls = frames.calls if frames.source == "random" else -(-frames.given // frames.size)
        self._stride = -(-calls // max(1, most // frames.size))
        self._end = calls

    def __len__(self) -> int:
        return -(-self._end // self._stride)

    @property
    def frames(self) -> int:
        """How many frames that are."""
        return len(self) * self._frames.size

    def __iter__(self) -> Iterator[Feeds]:
        for number, inputs in enumerate(self._frames):
            if number < self._end and number % self._stride == 0:
                yield {self._names[name]: array for name, array in to_file(inputs, self._moved).items()}


def few(frames: Frames) -> list[Finding]:
    """A warning where the ranges of an int8 file come from fewer of the user's frames than they should."""
    if frames.source != "samples" or frames.given >= FEW:
        return []
    return [
        Finding(
            "BNF-V042",
            "warning",
            "samples",
            f"the range of every activation comes from {count(frames.given, 'frame')}, and {FEW} are the "
            "least that can stand for others: what goes further on the device is cut off",
            {"given": frames.given, "least": FEW, "most": MOST},
            f"give {FEW} to {MOST} frames as the device sees them (--samples), or none: the population "
            "statistics stand for more than a few frames do",
        )
    ]


def unbounded(inputs: Sequence[TensorSpec], limits: Mapping[str, Any]) -> list[Finding]:
    """Warnings where the range of an input comes from noise: statistics say nothing of its single values.

    Args:
        inputs: of a network that is calibrated without frames.
        limits: by the names of those whose values are known to have limits, as pixels do.
    """
    return [
        Finding(
            "BNF-V045",
            "warning",
            f"input {spec.name!r}",
            f"how far input {spec.name!r} goes was taken from noise that fits the population statistics: "
            "what goes further on the device is cut off",
            {"input": spec.name},
            "give frames (--samples)",
        )
        for spec in inputs
        if spec.name not in limits and np.dtype(spec.dtype).kind == "f"
    ]


def described(source: str, calls: Calls) -> dict[str, Any]:
    """What the manifest says of a calibration."""
    return {"source": source, "frames": calls.frames}
