"""Statistics of a layer's input whose unit is the frame: with them comes what chance alone would change.

The pixels of a frame are correlated, so the mean over a batch is as good as the number of *frames* makes it,
not the number of values. For frame i and channel c let

    e_i = mean over positions of (x - center),    q_i = mean over positions of (x - center)^2.

Then mean = center + E[e] and variance = E[q] - E[e]^2, with standard errors from the spread of the frames:
sqrt(Var(e) / n), and (delta method) sqrt(Var(q - 2 E[e] e) / n). The center is the first batch's mean, so
nothing is subtracted that is as large as the mean. Sums are merged as in `bnfold.statistics.moments`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


@dataclass
class FrameStatistics:
    """What the frames so far come to; shape (channels,) for every array.

    Attributes:
        frames: n.
        positions: values per frame and channel, of the first batch.
        center: what is subtracted first.
    """

    frames: int = 0
    positions: int = 0
    center: Array = field(default_factory=lambda: np.zeros(0))
    _mean: Array = field(default_factory=lambda: np.zeros((2, 0)))
    _scatter: Array = field(default_factory=lambda: np.zeros((3, 0)))  # of (e, e), (q, q), (e, q)

    def add(self, values: Tensor) -> None:
        """Take in a batch, shape (frames, channels, ...)."""
        x = values.detach().double().reshape(values.shape[0], values.shape[1], -1)
        if not self.frames:
            self.positions = x.shape[2]
            center = x.mean(dim=(0, 2))
            self.center = torch.where(center.isfinite(), center, 0.0).cpu().numpy()
            self._mean, self._scatter = np.zeros((2, x.shape[1])), np.zeros((3, x.shape[1]))
        x = x - torch.from_numpy(self.center).to(x.device)[None, :, None]
        pair = torch.stack([x.mean(dim=2), x.square().mean(dim=2)]).cpu().numpy()
        with np.errstate(invalid="ignore", over="ignore"):
            self._merge(pair)

    def _merge(self, pair: NDArray[np.float64]) -> None:
        """Chan's update for two quantities and their product; ``pair`` has shape (2, frames, channels)."""
        count = pair.shape[1]
        mean = pair.mean(axis=1)
        e, q = pair - mean[:, None]
        total = self.frames + count
        de, dq = mean - self._mean
        weight = self.frames * count / total
        self._scatter += np.stack([(e * e).sum(0), (q * q).sum(0), (e * q).sum(0)])
        self._scatter += weight * np.stack([de * de, dq * dq, de * dq])
        self._mean += (mean - self._mean) * (count / total)
        self.frames = total

    @property
    def mean(self) -> Array:
        """Of the population of these frames."""
        return np.asarray(self.center + self._mean[0])

    @property
    def variance(self) -> Array:
        """Of the population of these frames, over frames and positions."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(np.maximum(self._mean[1] - np.square(self._mean[0]), 0.0))

    @property
    def between(self) -> Array:
        """The variance of the frames' means, unbiased; 0 for one frame."""
        return np.asarray(self._scatter[0] / max(self.frames - 1, 1))

    @property
    def within(self) -> Array:
        """The variance inside the frames: what a batch of one would find."""
        with np.errstate(invalid="ignore", over="ignore"):
            spread = self._scatter[0] / max(self.frames, 1)
            return np.asarray(np.maximum(self.variance - spread, 0.0))

    @property
    def variance_spread(self) -> Array:
        """The variance, from frame to frame, of what a frame contributes to the variance."""
        ee, qq, eq = self._scatter / max(self.frames - 1, 1)
        mean = self._mean[0]
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(np.maximum(qq - 4 * mean * eq + 4 * mean * mean * ee, 0.0))

    @property
    def is_finite(self) -> NDArray[np.bool_]:
        """By channel."""
        return np.asarray(np.isfinite(self._mean).all(axis=0) & np.isfinite(self._scatter).all(axis=0))
