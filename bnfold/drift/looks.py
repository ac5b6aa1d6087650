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
from bnfold.drift.taps import columns, spread_factor
from bnfold.drift.tier0 import LayerTest

_WINDOWS = (32, 64)  # of 16 frames tier 0 tells chance too roughly for so small a level
_QUICK = 39
_SUSPICIOUS = 0.05


@dataclass(frozen=True)
class Look:
    """A window that differs.

    Attributes:
        window: kept frames in it.
        p: of the look; None without a baseline.
        tests: one for each layer, at least one of them significant.
    """

    window: int
    p: float | None
    tests: list[LayerTest]


class Looks:
    """What a monitor's windows are compared with.

    Args:
        layers: of the reference.
        sizes: columns of each layer.
        train_batch: the batch of training.
        baseline: codes of held-out frames, (n0, columns); None: the population statistics are all there is.
        alpha: the rate of false alarms in one look.
    """

    def __init__(
        self,
        layers: Sequence[LayerReference],
        sizes: Sequence[int],
        train_batch: int,
        baseline: NDArray[np.uint8] | None,
        alpha: float,
    ) -> None:
        self._sizes = tuple(sizes)
        self._baseline = baseline
        self._alpha = alpha
        self._behind = [layer.frames_behind(train_batch) for layer in layers]
        self._batches = [None if layer.momentum is None else layer.batches for layer in layers]
        self._single = [layer.positions == 1 for layer in layers]
        factors = [math.sqrt(spread_factor(layer, train_batch)) for layer in layers]
        self._factors = np.repeat(factors, self._sizes)

    def look(
        self, codes: NDArray[np.uint8], values: NDArray[np.float32], known: NDArray[np.float32] | None
    ) -> Look | None:
        """The window that stands out most, if any does.

        Args:
            codes: of the last kept frames in the order of time, (m, columns), m >= 16.
            values: what they stand for.
            known: what the baseline's codes stand for.
        """
        if not any(self._sizes):
            return None
        if self._baseline is None or known is None:
            return self._against_statistics(values)
        return self._against_baseline(codes, values, self._baseline, known)

    def _against_statistics(self, values: NDArray[np.float32]) -> Look | None:
        found: list[Look] = []
        scaled = values / self._factors
        layers, alpha = (self._behind, self._batches, self._single), self._alpha / len(_WINDOWS)
        for window in _WINDOWS:
            recent = scaled[-window:]
            if window > len(scaled) or not tier0.possible(recent, self._sizes, *layers, alpha=alpha):
                continue
            parts = [recent[:, part] for part in columns(self._sizes)]
            tests = tier0.judge(parts, *layers, alpha=alpha)
            if any(test.significant for test in tests):
                found.append(Look(window, None, tests))
        return max(found, key=lambda look: max(test.strength for test in look.tests), default=None)

    def _against_baseline(
        self,
        codes: NDArray[np.uint8],
        values: NDArray[np.float32],
        baseline: NDArray[np.uint8],
        known: NDArray[np.float32],
    ) -> Look | None:
        # Few deals tell most windows from drift; an alarm needs all of them as well
        if scan(codes, baseline, self._sizes, deals=_QUICK).p > max(_SUSPICIOUS, self._alpha):
            return None
        found = scan(codes, baseline, self._sizes, deals=deals_for(self._alpha), level=self._alpha)
        if found.p > self._alpha:
            return None
        # The level is kept; which layers it is, and whether the effect is worth an alarm
        _, tests = tier1.judge(values[-found.window :], known, self._sizes)
        if not any(test.significant for test in tests):
            return None
        return Look(found.window, found.p, tests)
