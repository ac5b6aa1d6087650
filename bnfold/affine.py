"""The per-channel affine map that a BatchNorm with frozen statistics is, and its algebra, in float64.

    y[n, c, ...] = scale[c] * x[n, c, ...] + shift[c] + map[c, ...]

``map`` is what zero padding makes of a shift: a constant that varies over the spatial axes. It is None nearly
always. Scale, shift and map are kept apart because they have different legality: a scale passes through a
zero-padded convolution, a shift does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """``scale * x + shift + map``.

    Attributes:
        scale, shift: shape (channels,), float64.
        map: shape (channels, *spatial), float64, or None.
    """

    scale: Array
    shift: Array
    map: Array | None = None

    @classmethod
    def identity(cls, channels: int) -> Affine:
        """1 * x + 0."""
        return cls(np.ones(channels), np.zeros(channels))

    @classmethod
    def from_batch_norm(
        cls, mean: Array, variance: Array, eps: float, gamma: Array | None, beta: Array | None
    ) -> Affine:
        """Freeze population statistics: s = gamma / sqrt(variance + eps), t = beta - mean * s.

        Ioffe and Szegedy, "Batch Normalization" (2015), algorithm 2. All arrays have shape (channels,).

        Raises:
            ValueError: variance + eps is not positive somewhere.
        """
        spread = np.asarray(variance, dtype=np.float64) + eps
        if not (spread > 0).all():
            raise ValueError("variance + eps must be positive in every channel")
        scale = 1.0 / np.sqrt(spread)
        if gamma is not None:
            scale = np.asarray(gamma, dtype=np.float64) * scale
        shift = -np.asarray(mean, dtype=np.float64) * scale
        if beta is not None:
            shift = np.asarray(beta, dtype=np.float64) + shift
        return cls(scale, shift)

    @property
    def channels(self) -> int:
        return len(self.scale)

    @property
    def has_scale(self) -> bool:
        return bool((self.scale != 1).any())

    @property
    def has_shift(self) -> bool:
        return bool((self.shift != 0).any())

    @property
    def is_identity(self) -> bool:
        return not self.has_scale and not self.has_shift and self.map is None

    def only_scale(self) -> Affine:
        """The scale without shift and map."""
        return Affine(self.scale, np.zeros_like(self.shift))

    def without_scale(self) -> Affine:
        """Shift and map alone."""
        return replace(self, scale=np.ones_like(self.scale))

    def only_map(self) -> Affine:
        """The map alone."""
        return replace(self, scale=np.ones_like(self.scale), shift=np.zeros_like(self.shift))

    def after(self, first: Affine) -> Affine:
        """The composition: ``self.after(first)(x) == self(first(x))``.

        s2 * (s1 * x + t1 + m1) + t2 + m2 = (s2 * s1) * x + (s2 * t1 + t2) + (s2 * m1 + m2)
        """
        maps = self.map
        if first.map is not None:
            scaled = first.map * self.scale.reshape(-1, *[1] * (first.map.ndim - 1))
            maps = scaled if maps is None else maps + scaled
        return Affine(self.scale * first.scale, self.scale * first.shift + self.shift, maps)

    def scale_after_shift(self, smallest: float = 1e-3) -> tuple[Affine, Affine] | None:
        """Split into ``scale(shift(x))``: s * x + t = s * (x + t / s).

        None where some |s| is below ``smallest`` times the largest: t / s would lose precision there, or
        be infinite.

        Returns:
            (scale alone, shift alone), to be applied in the order shift, scale.
        """
        magnitude = np.abs(self.scale)
        if not magnitude.min() > smallest * magnitude.max():
            return None
        maps = self.map
        if maps is not None:
            maps = maps / self.scale.reshape(-1, *[1] * (maps.ndim - 1))
        return self.only_scale(), Affine(np.ones_like(self.scale), self.shift / self.scale, maps)
