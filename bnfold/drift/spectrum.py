"""How large a mean square over channels may be by chance, where the channels' covariance is estimated.

For frames x_i of C channels with covariance S and mean 0, R^2 = |mean x|^2 / C is a sum of chi-squares
weighed by the eigenvalues of S; three traces of powers of S give its quantiles (Zhang, 2005), and how
surely the frames tell the first of them makes chi-square F. Beside chance there is a gap that is no
drift: see `bnfold.drift.tier0`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.distributions import f_quantile, f_tail, normal_quantile

Array = NDArray[np.float64]

_ALONG = 2.5  # standard deviations of chance along the gap
_UNSEEN = 500.0  # n frames tell a trace with at most (n - 1)^3 / this degrees of freedom,
_LEAST_KNOWN = 4.0  # or this many
_LEAST_P = 1e-300


@dataclass(frozen=True)
class Shift:
    """R^2 of values whose means are 0 without drift, and what it may be.

    Attributes:
        effect: root mean square over the channels of the mean beyond chance.
        threshold: of R^2.
        strength: R over the root of its threshold.
        p: how often chance and the gap alone would give this R^2 or more.
        shape: of the values' covariance.
    """

    effect: float
    threshold: float
    strength: float
    p: float
    shape: Spectrum


def compared(mean: Array, laws: Sequence[Spectrum], noise: float, gap: float, tail: float) -> Shift:
    """Means and what chance makes of them by each of these laws, the first of which was observed."""
    found = float(np.square(mean).mean())
    threshold, shape = min(((_threshold(law, noise, gap, tail), law) for law in laws), key=lambda one: one[0])
    p = min(_tail(law, noise, gap, found) for law in laws)
    strength = math.sqrt(found / threshold) if threshold > 0 else 0.0
    effect = math.sqrt(max(found - laws[0].trace * noise, 0.0))
    return Shift(effect, threshold, strength, p, shape)


def _threshold(shape: Spectrum, noise: float, gap: float, tail: float) -> float:
    """Of R^2."""
    average = shape.trace * noise
    chance = noise * shape.quantile(tail)
    return gap * gap + average + math.hypot(chance - average, _along(shape, noise, gap))


def _tail(shape: Spectrum, noise: float, gap: float, found: float) -> float:
    """The tail for which the threshold would be what was found."""
    average = shape.trace * noise
    beyond, along = found - gap * gap - average, _along(shape, noise, gap)
    if beyond <= along:
        return 1.0
    return max(shape.tail((average + math.sqrt(beyond**2 - along**2)) / noise), _LEAST_P)


def _along(shape: Spectrum, noise: float, gap: float) -> float:
    """What gap and chance make together."""
    return 2 * _ALONG * gap * math.sqrt(shape.trace * noise / shape.degrees)


@dataclass(frozen=True)
class Spectrum:
    """Of a covariance S of C channels.

    Attributes:
        trace, square, cube: tr S / C, tr S^2 / C^2, tr S^3 / C^3.
        known: degrees of freedom with which the frames tell the trace: 2 over its squared relative error. It
            is smaller where few frames hold most of the energy, and where there are few frames: that none of
            16 lies far out does not say that none does.
        normal: what ``known`` is for normal frames.
    """

    trace: float
    square: float
    cube: float
    known: float
    normal: float

    @property
    def degrees(self) -> float:
        """tr(S)^2 / tr(S^2): how many directions of equal weight it is worth."""
        return max(self.trace**2 / self.square, 1.0)

    def quantile(self, tail: float) -> float:
        """Of |x|^2 / C for a normal x with covariance S.

        Weighted chi-squares by three cumulants: b0 + b1 F_d, with b1 d = tr(S^2)^2 / tr(S^3) (Zhang, 2005).
        Two would make the tail too light where one direction stands out of many small ones.
        """
        scale, directions = self._law
        return self.trace - scale + scale * f_quantile(tail, round(directions, 2), round(self.known, 1))

    def tail(self, quantile: float) -> float:
        """The reverse of :meth:`quantile`."""
        scale, directions = self._law
        return f_tail((quantile - self.trace + scale) / scale, directions, self.known)

    def known_at(self, trace: float) -> Spectrum:
        """The same directions with another tr S / C, which is known: they are not, and count as normal."""
        factor = trace / max(self.trace, 1e-30)
        return Spectrum(trace, self.square * factor**2, self.cube * factor**3, self.normal, self.normal)

    @property
    def _law(self) -> tuple[float, float]:
        return self.square**2 / self.cube, self.square**3 / self.cube**2


def spectrum(centred: Array, *, unseen: bool = True) -> Spectrum:
    """Of centred frames (n, channels); ``unseen``: whether others may lie far out of which n show none.

    The Gram matrix without its diagonal gives unbiased traces of powers; the diagonal has fourth moments.
    """
    n, channels = centred.shape
    gram = centred @ centred.T / channels
    trace = float(np.trace(gram)) / (n - 1)
    error = float(np.diag(gram).var(ddof=1)) / n
    np.fill_diagonal(gram, 0)
    twice = gram @ gram
    square = float(np.trace(twice)) / (n * (n - 1))
    square = min(max(square, trace * trace / channels, 1e-30), max(trace * trace, 1e-30))
    cube = float((twice * gram).sum()) / (n * (n - 1) * max(n - 2, 1))
    # Between all directions alike, and one alone
    cube = min(max(cube, square * square / max(trace, 1e-30)), square**1.5)
    normal = max(trace * trace / square, 1.0) * (n - 1)
    known = normal if error <= 0 else min(normal, max(2 * trace * trace / error, 2.0))
    if unseen:
        known = min(known, max((n - 1) ** 3 / _UNSEEN, _LEAST_KNOWN))
    return Spectrum(trace, square, cube, known, normal)


def detectable(threshold: float, shape: Spectrum, noise: float) -> float:
    """The smallest effect e that passes the threshold with probability 0.9.

    e^2 + noise tr S / C is what R^2 is on average; its deviation has a part of chance alone, and one along e,
    in a direction that S weighs as it weighs its own on average.
    """
    z = normal_quantile(0.9)
    low, high = 0.0, 100.0
    for _ in range(60):
        e = (low + high) / 2
        along = shape.square / max(shape.trace, 1e-30)
        deviation = math.sqrt(2 * shape.square * noise * noise + 4 * e * e * along * noise)
        if e * e + shape.trace * noise - z * deviation < threshold:
            low = e
        else:
            high = e
    return high
