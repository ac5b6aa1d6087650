"""What a verdict rests on, frame by frame: kept on request, for a report that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.reference import Reference
from bnfold.drift.taps import Taps, columns

Array = NDArray[np.float64]

_FURTHEST = 10.0  # deviations that one channel counts for at most
_LEAST = 0.05  # a channel of held-out frames counts as varying by so much at least, in deviations of training


@dataclass(frozen=True)
class Evidence:
    """The frames behind a `DriftResult`.

    Attributes:
        reference: of the network.
        taps: of the frames that were tested.
        tested: their numbers among the frames that were given, shape (tested,).
        kept: which of the tested ones are no repeats of the frame before, shape (kept,).
        pictures: the first input of all frames that were given, first axis: frames.
        held_out: taps of the baseline, shape (frames, live channels) as ``taps.values``; None without one.
        images: `images.statistics` of the tested frames, by name; empty where they are no images.
        held_out_images: the same of a baseline that was given as frames.
    """

    reference: Reference
    taps: Taps
    tested: NDArray[np.int64]
    kept: NDArray[np.int64]
    pictures: NDArray[np.generic]
    held_out: NDArray[np.float32] | None = None
    images: Mapping[str, Array] = field(default_factory=dict)
    held_out_images: Mapping[str, Array] = field(default_factory=dict)

    @property
    def distances(self) -> Array:
        """How far each tested frame is from training, shape (tested,): see `distances_of`."""
        return self.distances_of(self.taps.values)

    @property
    def held_out_distances(self) -> Array:
        """The same of the held-out frames; empty without any."""
        return np.zeros(0) if self.held_out is None else self.distances_of(self.held_out)

    def distances_of(self, values: NDArray[np.float32]) -> Array:
        """The root mean square over a layer's channels of (tap - center) / deviation, averaged over layers.

        Center and deviation of a channel are those of the held-out frames; without any they are 0 and 1,
        those of the population statistics, and as the deviation of a mean over positions is smaller than that
        of a value, distances come out below 1. One channel counts for 10 deviations at most.

        Args:
            values: taps, shape (frames, live channels).
        """
        center, deviation = self.spread
        z = np.clip((values - center) / deviation, -_FURTHEST, _FURTHEST)
        rows = [
            np.sqrt(np.square(z[:, part]).mean(axis=1))
            for part in columns(self.taps.sizes)
            if part.stop > part.start
        ]
        return np.asarray(np.mean(rows, axis=0)) if rows else np.zeros(len(values))

    @property
    def spread(self) -> tuple[Array, Array]:
        """Center and deviation of every live channel without drift, shape (live channels,) each."""
        count = self.taps.values.shape[1]
        if self.held_out is None or len(self.held_out) < 2:
            return np.zeros(count), np.ones(count)
        held = self.held_out.astype(np.float64)
        return held.mean(axis=0), np.maximum(held.std(axis=0, ddof=1), _LEAST)

    def column(self, layer: str, channel: int) -> int | None:
        """Where the taps of a channel stand; None for one that is not looked at."""
        parts = columns(self.taps.sizes)
        for place, one in enumerate(self.reference.layers):
            if one.name == layer:
                at = np.flatnonzero(self.taps.channels[place] == channel)
                return parts[place].start + int(at[0]) if len(at) else None
        return None
