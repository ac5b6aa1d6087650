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

# Of |s| against the largest. s (x + t / s) is rounded like s x + t however small s is, but numbers must stay
# in the range of the type.
_SMALLEST = 1e-5


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

    @property
    def is_uniform(self) -> bool:
        """Whether it is the same for every channel."""
        return self.map is None and bool(
            (self.scale == self.scale[0]).all() and (self.shift == self.shift[0]).all()
        )

    def take(self, channels: Array | NDArray[np.int64]) -> Affine:
        """The affine of these channels, in this order; -1 stands for a channel that is left alone.

        Raises:
            ValueError: it has a map.
        """
        if self.map is not None:
            raise ValueError("a map cannot be rearranged by channel")
        index = np.asarray(channels, dtype=np.int64)
        return Affine(
            np.where(index < 0, 1.0, self.scale[index]), np.where(index < 0, 0.0, self.shift[index])
        )

    def inverse(self, smallest: float = _SMALLEST) -> Affine | None:
        """(x - shift) / scale; None with a map, or where |scale| is below ``smallest`` times the largest."""
        magnitude = np.abs(self.scale)
        if self.map is not None or not magnitude.min() > smallest * magnitude.max():
            return None
        return Affine(1.0 / self.scale, -self.shift / self.scale)

    def negated_shift(self) -> Affine:
        """scale * x - shift - map."""
        return Affine(self.scale, -self.shift, None if self.map is None else -self.map)

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

    def plus(self, other: Affine) -> Affine:
        """The sum: ``self.plus(other)(x) == self(x) + other(x)``."""
        maps = [part for part in (self.map, other.map) if part is not None]
        return Affine(
            self.scale + other.scale, self.shift + other.shift, sum(maps[1:], maps[0]) if maps else None
        )

    def times(self, factor: float) -> Affine:
        """The multiple: ``self.times(factor)(x) == factor * self(x)``."""
        return Affine(
            factor * self.scale, factor * self.shift, None if self.map is None else factor * self.map
        )

    def scale_after_shift(self, smallest: float = _SMALLEST) -> tuple[Affine, Affine] | None:
        """Split into ``scale(shift(x))``: s * x + t = s * (x + t / s).

        The shift of a dead channel (s = 0) stays with its scale: nothing that comes before can make it.
        None where another |s| is below ``smallest`` times the largest: t / s would lose precision there.

        Returns:
            (scale, with the shifts of dead channels; shift alone), to be applied in the order shift, scale.
        """
        magnitude, dead = np.abs(self.scale), self.scale == 0
        if dead.all() or not magnitude[~dead].min() > smallest * magnitude.max():
            return None
        divisor, maps = np.where(dead, 1.0, self.scale), self.map
        if maps is not None:
            if dead.any():
                return None
            maps = maps / self.scale.reshape(-1, *[1] * (maps.ndim - 1))
        shift = np.where(dead, 0.0, self.shift / divisor)
        return Affine(self.scale, np.where(dead, self.shift, 0.0)), Affine(np.ones_like(shift), shift, maps)
