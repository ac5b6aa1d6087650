"""Tier 0: do frames fit the population statistics alone? No data of training are needed.

For one layer, the window's n independent frames give standardised taps z_i of C channels, clipped at 3 so
that no frame and no channel dominates. Under training E z = 0 and Var z <= 1.

*Shift.* R^2 = |mean z|^2 / C. What it is without drift has three parts. Chance: n R^2 is a sum of
chi-squares weighed by the eigenvalues of the window's own covariance S, whose quantile, q times its mean
tr S / C, follows from tr S, tr S^2, tr S^3 and how surely n frames tell tr S. The reference's own error:
S / n_ref, where the running mean averages n_ref = B (2 - m) / m frames. And the gap g between the statistics
and held-out data (the average lags behind the weights, upstream layers were normalised by their batch), at
most ``margin`` in root mean square, more for a short training. An alarm needs, with d = tr(S)^2 / tr(S^2),

    R^2 > g^2 + v + sqrt(((q - 1) v)^2 + (2 z g)^2 v / d),    v = (1/n + 1/n_ref) tr S / C,

where the second term under the root is what gap and chance make together. As tr S / C is at most 1, chance is
never more than S brought to that trace makes, known for sure: in a fully connected layer, where it is 1, this
is what decides.

*Channel.* One channel's mean, against the bound 1 on its deviation.

*Scale.* Where a frame has one position, as in a fully connected layer, a tap is a single value and Var z is
1. So u = (z^2 - 1) / sqrt(2) has mean 0 as z has, and the same test is made of it: noise and blur change what
the channels vary by and may leave their means where they were. The gap of these means is as large as that of
the others (docs/drift.md).

*Second moments.* Where they are tapped, u is their deviation from the variance, in sqrt(2) variances, and
has mean 0. The same test is made of it as "scale". Frames differ in contrast, so nothing bounds how u varies,
and a few frames may hold most of it: the window tells its trace with a third of the degrees of freedom that
it seems to, and (n - 1) / 2 at most. The gap is larger where frames differ more.

*Spread.* The mean of z^2 over frames and channels is at most 1 without drift: more tells of a larger scale.

Every layer has a p-value for its shift, and for its scale. What they say together is their weighted harmonic
mean (Good, 1958; Wilson, 2019): it rejects about where one of them passes alpha over their number, as
Bonferroni's test does, and also where several layers are each a little less sure. Channel and spread are
tested at alpha over the number of layers. All shares of alpha together bound the family.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.distributions import f_quantile, normal_quantile, t_quantile
from bnfold.drift.spectrum import Shift, compared, detectable, spectrum

Array = NDArray[np.float64]

ALPHA = 0.01
MARGIN = 0.05
_CLIP = 3.0
_SHARES = {"shift": 0.9, "channel": 0.05, "spread": 0.05}
_SCALE = 0.45  # of alpha: taken from the shift's share in a layer whose scale is known
_CHANNEL_MARGIN = 4.0  # times the margin: a single channel's gap, where the layer's mean square is the margin
_SPREAD_MARGIN = 0.25
_SHORT = 16.0  # batches: an average over T batches adds (this / T)^1.5 to the margin
_LARGEST = 3.0  # times the margin, at most: a recalibration has a small T as well, and no lag
_SURE_TAIL = 0.02  # of a larger one a skewed law's quantile may lie below a less skewed one's
_KNOWN = 1e9  # degrees of freedom of a trace that is known
_LARGEST_TRACE = 1.0  # of tr S / C: the variance between frames is at most that between positions of all
_GAP_SQUARES = 0.15  # of what frames' second moments vary by, where that is more than the margin
_CLIP_SQUARES = 10.0  # a mean of what is clipped lower would lie below 0 where frames differ in contrast
_SEEN_SQUARES = 1 / 3  # of the degrees of freedom with which frames seem to tell a trace of second moments;
_FRAMES_SQUARES = 0.5  # at most this times n - 1,
_LEAST_SQUARES = 3.0  # and at least these


@dataclass(frozen=True)
class Expected:
    """What is known of a layer's taps without drift, beside that their mean is 0.

    Attributes:
        behind: n_ref, the frames that the reference is an average of.
        batches: ``num_batches_tracked``, or None.
        single: whether a tap is one value of one frame, so that its deviation is known.
        squares: whether taps are second moments, which nothing bounds.
        bias: of second moments: how far their mean may lie above 0, as the running variance of a small batch
            is too small.
    """

    behind: float
    batches: int | None = None
    single: bool = False
    squares: bool = False
    bias: float = 0.0


@dataclass(frozen=True)
class LayerTest:
    """What one layer showed.

    Attributes:
        effect: root mean square over the channels of the mean shift beyond chance, in deviations.
        limit: what the layer's ``effect`` may be without drift: the margin as used here.
        significant: whether any of its tests passes its threshold.
        by: which: ``shift``, ``scale``, ``spread``, ``channel``; empty if none.
        strength: the largest ratio of a statistic to the threshold that it would have by itself.
        detectable: an effect of this size would have been seen with probability 0.9.
        shifts: shape (channels,), mean shift of each channel in deviations.
        channels: columns that stand out by themselves, the largest first.
        p: family-wise; None at tier 0, which gives a threshold only.
    """

    effect: float
    limit: float
    significant: bool
    by: tuple[str, ...]
    strength: float
    detectable: float
    shifts: Array
    channels: tuple[int, ...]
    p: float | None = None


def judge(
    layers: Sequence[NDArray[np.floating]],
    expected: Sequence[Expected],
    *,
    alpha: float = ALPHA,
    margin: float = MARGIN,
) -> list[LayerTest]:
    """One test for each layer; a layer without channels passes.

    Args:
        layers: taps of independent frames, each (frames, channels); means are divided by the layer's spread
            factor.
        expected: of each layer.
        alpha: the rate of false alarms over all layers.
        margin: the gap that is no drift, in deviations.
    """
    family = max(1, sum(layer.shape[1] > 0 for layer in layers))
    channels = max(1, sum(layer.shape[1] for layer in layers))
    found = [
        _squares(layer, one, margin, alpha, family)
        if one.squares
        else _layer(layer, one, margin, alpha, family, channels)
        for layer, one in zip(layers, expected, strict=True)
    ]
    level = alpha * _SHARES["shift"]
    together = _together([part for one in found for part in one.parts.values()], level)
    return [one.test(level if together else 0.0) for one in found]


def _together(parts: Sequence[tuple[float, float]], level: float) -> bool:
    """Whether p-values, each with its weight, reject at ``level`` by their weighted harmonic mean.

    Args:
        parts: (p, weight); the weights of all tests add to 1 at most.

    1 / p of a uniform p has a Pareto law's tail of index 1, and of such terms a sum is large where its
    largest term is: sum w / p exceeds x with probability 1 / (x - log(terms x)) or so, and for small levels
    that holds for dependent terms as well (Wilson, PNAS 116, 2019).
    """
    needed = 1 / level + (math.log(len(parts) / level) if len(parts) > 1 else 0.0)
    return sum(weight / p for p, weight in parts) >= needed


@dataclass(frozen=True)
class _Found:
    """A layer before the others are known.

    Attributes:
        alone: its test, with what it shows by itself: channel and spread.
        parts: p-value and weight of ``shift`` and ``scale``.
    """

    alone: LayerTest
    parts: dict[str, tuple[float, float]]

    def test(self, level: float) -> LayerTest:
        """With the parts whose p-value is at most ``level``."""
        by = (*(name for name, (p, _) in self.parts.items() if p <= level), *self.alone.by)
        return replace(self.alone, significant=bool(by), by=by)


def possible(
    values: NDArray[np.floating],
    sizes: Sequence[int],
    expected: Sequence[Expected],
    *,
    alpha: float = ALPHA,
    margin: float = MARGIN,
) -> bool:
    """Whether :func:`judge` could find anything: False says that it will not, at a fraction of its cost.

    A mean square shift that counts is above what it may be by chance if all directions weighed the same and
    the trace were known, which is the least that chance can be: chi-square's quantile for all channels.

    Args:
        values: taps of independent frames, (frames, channels), the layers side by side, divided by their
            spread factors; the rest as for :func:`judge`.
        sizes: channels of each layer.
    """
    level = alpha * _SHARES["shift"]
    live = [(one, size) for one, size in zip(expected, sizes, strict=True) if size]
    if level > _SURE_TAIL or len(values) < 2 or any(one.squares for one, _ in live):
        return True
    counts = np.array([size for _, size in live])
    begins = np.cumsum([0, *counts[:-1]])
    noise = 1 / len(values) + 1 / np.array([one.behind for one, _ in live])
    gap = np.array([_gap(margin, one.batches) for one, _ in live])
    least = np.array([f_quantile(level, float(count), _KNOWN) for count in counts])
    z = np.clip(values, -_CLIP, _CLIP)
    energy = np.square(z)

    def beyond(mean: Array, square: Array, largest: float = math.inf) -> NDArray[np.bool_]:
        trace = np.add.reduceat(square - mean * mean, begins) / counts * len(z) / (len(z) - 1)
        trace = np.minimum(trace, largest)
        return np.asarray(
            np.add.reduceat(mean * mean, begins) / counts > gap * gap + least * noise * trace * (1 - 1e-6)
        )

    mean, square = z.mean(axis=0, dtype=np.float64), energy.mean(axis=0, dtype=np.float64)
    bound = normal_quantile(1 - alpha * _SHARES["channel"] / (2 * counts.sum())) * np.sqrt(noise)
    found = (
        beyond(mean, square, _LARGEST_TRACE)
        | (np.maximum.reduceat(np.abs(mean), begins) > _CHANNEL_MARGIN * gap + bound)
        | (np.add.reduceat(square, begins) / counts > 1 + _SPREAD_MARGIN)
    )
    alone = np.array([one.single for one, _ in live])
    if alone.any():
        fourth = np.square(energy).mean(axis=0, dtype=np.float64)
        found |= alone & beyond((square - 1) / math.sqrt(2), (fourth - 2 * square + 1) / 2)
    return bool(found.any())


def _gap(margin: float, batches: int | None) -> float:
    return margin if not batches else min(margin + (_SHORT / batches) ** 1.5, _LARGEST * margin)


def _layer(
    taps: NDArray[np.floating], expected: Expected, margin: float, alpha: float, family: int, total: int
) -> _Found:
    n, channels = taps.shape
    gap, single = _gap(margin, expected.batches), expected.single
    if channels == 0 or n < 2:
        return _nothing(channels, gap)
    z = np.clip(taps, -_CLIP, _CLIP).astype(np.float64)
    mean = z.mean(axis=0)
    noise = 1 / n + 1 / expected.behind
    scale = _SCALE if single else 0.0
    shift = _shift(z, noise, gap, alpha * (_SHARES["shift"] - scale) / family, _LARGEST_TRACE, not single)
    whole = _SHARES["shift"] * family
    parts = {"shift": (shift.p, (_SHARES["shift"] - scale) / whole)}
    strongest = shift.strength
    if single:
        second = _shift((np.square(z) - 1) / math.sqrt(2), noise, gap, alpha * scale / family, unseen=False)
        parts["scale"] = (second.p, scale / whole)
        strongest = max(strongest, second.strength)

    # One channel, against the known bound on its deviation
    bound = normal_quantile(1 - alpha * _SHARES["channel"] / (2 * total)) * math.sqrt(noise)
    limit = _CHANNEL_MARGIN * gap + bound
    strengths = {"channel": float(np.abs(mean).max()) / limit}

    energy = np.square(z).mean(axis=1)
    error = float(energy.std(ddof=1)) / math.sqrt(n)
    most = 1 + _SPREAD_MARGIN + t_quantile(alpha * _SHARES["spread"] / family, n - 1) * error
    strengths["spread"] = float(energy.mean()) / most

    by = tuple(name for name, strength in strengths.items() if strength > 1)
    alone = LayerTest(
        shift.effect, gap, bool(by), by, max(strongest, *strengths.values()),
        detectable(shift.threshold, shift.shape, noise), mean, outstanding(z, mean, gap, alpha),
    )  # fmt: skip
    return _Found(alone, parts)


def _squares(
    taps: NDArray[np.floating], expected: Expected, margin: float, alpha: float, family: int
) -> _Found:
    n, channels = taps.shape
    gap = _gap(margin, expected.batches)
    if channels == 0 or n < 2:
        return _nothing(channels, gap)
    u = np.clip(taps, -_CLIP_SQUARES, _CLIP_SQUARES).astype(np.float64)
    mean = u.mean(axis=0)
    shape = spectrum(u - mean)
    known = min(_SEEN_SQUARES * shape.known, _FRAMES_SQUARES * (n - 1))
    shape = replace(shape, known=max(known, _LEAST_SQUARES))
    gap = max(gap, _GAP_SQUARES * math.sqrt(shape.trace)) + expected.bias
    noise = 1 / n + 1 / expected.behind
    found = compared(mean, [shape], noise, gap, alpha * _SHARES["shift"] / family)
    alone = LayerTest(
        found.effect, gap, False, (), found.strength,
        detectable(found.threshold, shape, noise), mean, outstanding(u, mean, gap, alpha),
    )  # fmt: skip
    return _Found(alone, {"scale": (found.p, 1 / family)})


def _nothing(channels: int, gap: float) -> _Found:
    return _Found(LayerTest(0.0, gap, False, (), 0.0, math.inf, np.zeros(channels), ()), {})


def _shift(
    values: Array, noise: float, gap: float, tail: float, largest: float = math.inf, unseen: bool = True
) -> Shift:
    """Of frames (n, channels).

    Args:
        noise: what a mean varies by, in units of one frame's variance.
        gap: root mean square of the means that is no drift.
        tail: for the threshold.
        largest: what tr S / C can be without drift.
        unseen: as for :func:`spectrum`.
    """
    mean = values.mean(axis=0)
    shape = spectrum(values - mean, unseen=unseen)
    laws = [shape] if math.isinf(largest) else [shape, shape.known_at(largest)]
    return compared(mean, laws, noise, gap, tail)


def outstanding(z: Array, mean: Array, gap: float, alpha: float) -> tuple[int, ...]:
    """Columns whose own mean is beyond the gap by Student's t, corrected for their number; largest first."""
    n, channels = z.shape
    error = z.std(axis=0, ddof=1) / math.sqrt(n)
    beyond = np.abs(mean) - 2 * gap - t_quantile(alpha / (2 * channels), n - 1) * error
    found = np.flatnonzero(beyond > 0)
    return tuple(int(c) for c in found[np.argsort(-np.abs(mean[found]))])
