"""What a set of frames gives at the tapped layers, in units of the reference's deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.reference import LayerReference, Reference
from bnfold.drift.tier0 import Expected

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Taps:
    """Standardised taps: z = (mean of the channel over the frame - reference mean) / reference deviation.

    Attributes:
        values: float32, shape (frames, live channels): the layers side by side. A channel that gamma has shut
            off is left out.
        sizes: live channels of each layer; a layer may have none.
        channels: for each layer, the channel numbers of its columns.
        scores: float, shape (frames, classes), the network's answer; None where it is no row of scores.
    """

    values: Array
    sizes: tuple[int, ...]
    channels: tuple[NDArray[np.int64], ...]
    scores: NDArray[Any] | None = None

    @classmethod
    def of(
        cls, means: Sequence[NDArray[Any]], reference: Reference, scores: NDArray[Any] | None = None
    ) -> Taps:
        """From raw channel means.

        Args:
            means: one array (frames, channels) for each layer of the reference, in its order.
            reference: what they are compared with.
            scores: the network's answers, kept where they are (frames, classes).

        Raises:
            ValueError: shapes that do not fit the reference.
        """
        if len(means) != len(reference.layers):
            raise ValueError(f"{len(means)} taps for {len(reference.layers)} layers")
        columns, channels = [], []
        for values, layer in zip(means, reference.layers, strict=True):
            if values.ndim != 2 or values.shape[1] != layer.channels:
                raise ValueError(f"{layer.name}: taps of shape {values.shape}, {layer.channels} channels")
            live = np.flatnonzero(layer.alive)
            channels.append(live)
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told from the result
                z = (values[:, live].astype(np.float64) - layer.mean[live]) / layer.deviation[live]
                columns.append(z.astype(np.float32))
        kept = scores if scores is not None and scores.ndim == 2 and scores.shape[1] > 1 else None
        return cls(np.concatenate(columns, axis=1), tuple(len(c) for c in channels), tuple(channels), kept)

    def __len__(self) -> int:
        return len(self.values)

    def layer(self, index: int) -> Array:
        """Shape (frames, live channels of the layer)."""
        start = sum(self.sizes[:index])
        return self.values[:, start : start + self.sizes[index]]

    def take(self, frames: NDArray[Any] | slice) -> Taps:
        """Some of the frames."""
        scores = None if self.scores is None else self.scores[frames]
        return Taps(self.values[frames], self.sizes, self.channels, scores)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Shape (frames,): whether all of a frame's taps are finite."""
        return np.asarray(np.isfinite(self.values).all(axis=1))

    def first_not_finite(self) -> tuple[int, int] | None:
        """The earliest layer with a value that is not finite, and the first frame that shows it there."""
        for index, _ in enumerate(self.sizes):
            bad = ~np.isfinite(self.layer(index)).all(axis=1)
            if bad.any():
                return index, int(np.flatnonzero(bad)[0])
        return None


def columns(sizes: Sequence[int]) -> list[slice]:
    """For each layer, where its columns are in an array of all layers side by side."""
    edges = np.concatenate([[0], np.cumsum(sizes)])
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def expectation(layer: LayerReference, train_batch: int, *, frames: int = 1) -> Expected:
    """What tier 0 knows of a layer's taps; ``frames``: whose mean each of them is."""
    squares = layer.moment == 2
    return Expected(
        layer.frames_behind(train_batch),
        None if layer.momentum is None else layer.batches,
        single=layer.positions == 1 and frames == 1,
        squares=squares,
        bias=(spread_factor(layer, train_batch) - 1) / math.sqrt(2) if squares else 0.0,
    )


def spread_factor(layer: LayerReference, train_batch: int) -> float:
    """How far the true variance may exceed the running one.

    A batch of B frames that are alike within themselves shows too little variance:
    E[running_var] = var [1 - (rho + (1 - rho) / HW) / B] B HW / (B HW - 1), with rho the share of the
    variance that lies between frames. The bound is at rho = 1; without spatial axes the two factors cancel.
    """
    values = train_batch * layer.positions
    if values <= 1:
        return float("inf")
    if layer.positions == 1:
        return 1.0
    return float("inf") if train_batch <= 1 else (values - 1) / values * train_batch / (train_batch - 1)
