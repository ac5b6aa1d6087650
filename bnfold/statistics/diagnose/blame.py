"""From gaps to a cause: which of the catalogue's signatures statistics and frames show together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.statistics.diagnose.gap import MARGIN, Gap, between
from bnfold.statistics.diagnose.passes import Pass, Reading

Array = NDArray[np.float64]

_EXPLAINED = 0.25
"""An explanation leaves at most this share of the squared gaps."""

_LEAST_WEIGHT = 0.02


@dataclass(frozen=True)
class InitialValue:
    """The initial value in a running average, estimated from frames.

    Attributes:
        weight: w in stored mean = (1 - w) mean, stored variance = w + (1 - w) variance.
        left: the share of the squared gaps that this leaves.
    """

    weight: float
    left: float


def first(gaps: Mapping[str, Gap]) -> str | None:
    """The first call, in execution order, that is off, where any is off beyond doubt."""
    certain = next((name for name, gap in gaps.items() if gap.parted.any()), None)
    if certain is None:
        return None
    return next(name for name, gap in gaps.items() if gap.suspect.any() or name == certain)


def parted(gaps: Mapping[str, Gap]) -> list[str]:
    """All calls from the first on that are off."""
    start = first(gaps)
    return (
        [] if start is None else [name for name, gap in gaps.items() if gap.suspect.any() or gap.parted.any()]
    )


def initial_value(readings: Iterable[Reading], weight: float | None = None) -> InitialValue | None:
    """Whether the gaps are those of an average that has not let go of mean 0 and variance 1.

    Args:
        readings: of layers with one weight.
        weight: where the number of updates tells it. Else it is searched for on a grid: a sum over
            channels of squared gaps (as in `gap`) is least at the best one, and below 2 % is not believed.
    """
    seen = [r for r in readings if r.mean is not None and r.variance is not None]
    rows = [_moments(reading) for reading in seen]
    if not rows:
        return None
    mean, variance, stored_mean, stored_variance, eps = (
        np.concatenate(column) for column in zip(*rows, strict=True)
    )
    good = np.isfinite(mean) & np.isfinite(variance) & np.isfinite(stored_mean) & (stored_variance + eps > 0)
    good &= np.isfinite(stored_variance)

    def left(w: float) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            shift = (stored_mean - (1 - w) * mean) / np.sqrt(variance + eps)
            scale = np.log((w + (1 - w) * variance + eps) / (stored_variance + eps)) / 2
        return float(np.sum(np.square(shift[good]) + np.square(scale[good])))

    before = left(0.0)
    if before <= 0 or not good.any():
        return None
    weights = np.linspace(0, 1, 201)
    best = float(weights[int(np.argmin([left(w) for w in weights]))]) if weight is None else weight
    share = left(best) / before
    if share > _EXPLAINED or (weight is None and best < _LEAST_WEIGHT):
        return None
    return InitialValue(best, share)


def _moments(reading: Reading) -> tuple[Array, Array, Array, Array, Array]:
    assert reading.mean is not None
    assert reading.variance is not None
    seen = reading.input
    return seen.mean, seen.variance, reading.mean, reading.variance, np.full(reading.channels, reading.eps)


@dataclass(frozen=True)
class WithinBatches:
    """How much of the variance between frames is missing from the stored variance.

    Attributes:
        share: k in stored variance = variance - k variance between frames: 1 for batches of one frame, or of
            frames that are alike; 1 / B for B independent frames.
        fit: the share of the squared differences that this explains.
    """

    share: float
    fit: float


def within_batches(readings: Iterable[Reading]) -> WithinBatches | None:
    """Whether the stored variances are those inside batches that were too small or too alike.

    Only layers with several positions in a frame show it: with one, a batch's unbiased variance is right on
    average whatever its size.
    """
    rows = [r for r in readings if r.mean is not None and r.variance is not None and r.input.positions > 1]
    if not rows:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.concatenate([r.input.variance + r.eps for r in rows])
        missing = 1 - np.concatenate([r.variance + r.eps for r in rows if r.variance is not None]) / spread
        shares = np.concatenate([r.input.between for r in rows]) / spread
    good = np.isfinite(missing) & np.isfinite(shares)
    missing, shares = missing[good], shares[good]
    total = float(np.sum(np.square(missing)))
    if total == 0 or not np.any(shares):
        return None
    slope = float(np.sum(shares * missing) / np.sum(np.square(shares)))
    fit = 1 - float(np.sum(np.square(missing - slope * shares))) / total
    return WithinBatches(slope, fit)


def sites(seen: Pass, *, margin: float = MARGIN) -> dict[str, Gap]:
    """By module, how far what its other call sites read is from what the first reads; of each the farthest.

    Only modules that are called more than once in a forward pass.
    """
    owners: dict[str, list[str]] = {}
    for reading in seen.readings.values():
        if reading.mean is not None:
            owners.setdefault(reading.owner, []).append(reading.name)
    pairs = [(names[0], other) for names in owners.values() for other in names[1:]]
    apart = between(seen, seen, pairs, margin=margin)
    found: dict[str, Gap] = {}
    for (one, other), gap in zip(pairs, apart.values(), strict=True):
        owner = seen.readings[one].owner
        assert gap.name == other
        if owner not in found or gap.certain.max() > found[owner].certain.max():
            found[owner] = gap
    return found


def explained(before: Mapping[str, Gap], after: Mapping[str, Gap], names: Iterable[str]) -> float:
    """The share of the squared gaps of the channels that are off which is gone after a change."""
    was = now = 0.0
    for name in names:
        chosen = before[name].suspect
        was += _squares(before[name], chosen)
        now += _squares(after[name], chosen)
    return 1 - now / was if was else 0.0


def _squares(gap: Gap, chosen: NDArray[np.bool_]) -> float:
    return float(np.nansum(np.square(gap.mean[chosen])) + np.nansum(np.square(gap.scale[chosen])))


def growth(evaluated: Pass, trained: Pass, *, factor: float = 10.0) -> str | None:
    """The first call whose output is more than ``factor`` times larger in eval mode than in train mode."""
    for name, reading in evaluated.readings.items():
        twin = trained.readings.get(name)
        if twin is not None and not reading.output.rms <= factor * twin.output.rms:
            return name
    return None


def layers_of(names: Sequence[str], seen: Pass) -> list[str]:
    """The modules of these calls, in order, once each."""
    return list(dict.fromkeys(seen.readings[name].owner for name in names))
