"""One look of a monitor: do the last kept frames differ from training, in windows of several lengths?

With a baseline one permutation test covers all windows (:mod:`bnfold.drift.scan`). Without one, tier 0 judges
each window at its share of the level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.drift import tier0, tier1
from bnfold.drift.reference import LayerReference
from bnfold.drift.scan import deals_for, scan
from bnfold.drift.taps import columns, expectation, spread_factor
from bnfold.drift.tier0 import LayerTest

_WINDOWS = (32, 64)  # of 16 frames tier 0 tells chance too roughly for so small a level
_QUICK = 39
_SUSPICIOUS = 0.05


@dataclass(frozen=True)
class Kept:
    """Frames in a monitor's columns.

    Attributes:
        codes: uint8, (frames, columns).
        values: what they stand for.
        layout, pictures: the same of the pictures' layout; None where it is not looked at.
    """

    codes: NDArray[np.uint8]
    values: NDArray[np.float32]
    layout: NDArray[np.uint8] | None = None
    pictures: NDArray[np.float32] | None = None

    @property
    def all_codes(self) -> NDArray[np.uint8]:
        """The layout as one more layer."""
        return self.codes if self.layout is None else np.concatenate([self.codes, self.layout], axis=1)

    @property
    def all_values(self) -> NDArray[np.float32]:
        """The same of what the codes stand for."""
        return self.values if self.pictures is None else np.concatenate([self.values, self.pictures], axis=1)


@dataclass(frozen=True)
class Look:
    """A window that differs.

    Attributes:
        window: kept frames in it.
        p: of the look; None without a baseline.
        tests: one for each layer.
        picture: of the pictures' layout, where it was looked at. It or one of the others is significant.
    """

    window: int
    p: float | None
    tests: list[LayerTest]
    picture: LayerTest | None = None


class Looks:
    """What a monitor's windows are compared with.

    Args:
        layers: of the reference.
        sizes: columns of each layer.
        train_batch: the batch of training.
        alpha: the rate of false alarms in one look.
    """

    def __init__(
        self,
        layers: Sequence[LayerReference],
        sizes: Sequence[int],
        train_batch: int,
        alpha: float,
    ) -> None:
        self._sizes = tuple(sizes)
        self._alpha = alpha
        self._expected = [expectation(layer, train_batch) for layer in layers]
        factors = [math.sqrt(spread_factor(layer, train_batch)) for layer in layers]
        self._factors = np.repeat(factors, self._sizes)

    def look(self, now: Kept, known: Kept | None) -> Look | None:
        """The window that stands out most, if any does.

        Args:
            now: the last kept frames in the order of time, 16 at least.
            known: the baseline's, with pictures where ``now`` has them.
        """
        if not any(self._sizes):
            return None
        return self._against_statistics(now.values) if known is None else self._against_baseline(now, known)

    def _against_statistics(self, values: NDArray[np.float32]) -> Look | None:
        found: list[Look] = []
        scaled = values / self._factors
        alpha = self._alpha / len(_WINDOWS)
        for window in _WINDOWS:
            recent = scaled[-window:]
            if window > len(scaled) or not tier0.possible(recent, self._sizes, self._expected, alpha=alpha):
                continue
            parts = [recent[:, part] for part in columns(self._sizes)]
            tests = tier0.judge(parts, self._expected, alpha=alpha)
            if any(test.significant for test in tests):
                found.append(Look(window, None, tests))
        return max(found, key=lambda look: max(test.strength for test in look.tests), default=None)

    def _against_baseline(self, now: Kept, known: Kept) -> Look | None:
        sizes = self._sizes if now.layout is None else (*self._sizes, now.layout.shape[1])
        recent, before = now.all_codes, known.all_codes
        # Few deals tell most windows from drift; an alarm needs all of them as well
        if scan(recent, before, sizes, deals=_QUICK).p > max(_SUSPICIOUS, self._alpha):
            return None
        found = scan(recent, before, sizes, deals=deals_for(self._alpha), level=self._alpha)
        if found.p > self._alpha:
            return None
        # The level is kept; which layers it is, and whether the effect is worth an alarm
        _, tests = tier1.judge(now.all_values[-found.window :], known.all_values, sizes)
        if not any(test.significant for test in tests):
            return None
        if now.layout is None:
            return Look(found.window, found.p, tests)
        return Look(found.window, found.p, tests[:-1], tests[-1])
