"""A channel whose variance has all but vanished: it was constant in training, and its gain is huge.

    s = gamma / sqrt(var + eps), up to 316 gamma with eps = 1e-5

In training the batch variance hides it. In use, any change of the channel's input is multiplied by s.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics.causes import VANISHING
from bnfold.statistics.checks._base import Check, among, channel_list, evidence
from bnfold.statistics.layers import VARIANCE, Layer
from bnfold.statistics.subject import Subject, gains_of

# below this share of eps the variance no longer counts, above this multiple of the median a gain is huge
_SHARE, _HUGE = 0.1, 10.0


class Vanishing(Check):
    """A variance far below eps with a gain far above what is usual in the layer."""

    causes = (VANISHING,)

    def examine(self, subject: Subject) -> Iterable[Finding]:
        """The median is over the layer's other channels; over the network where it has none."""
        for layer in subject.layers:
            yield from self._in(layer, subject)

    def _in(self, layer: Layer, subject: Subject) -> Iterable[Finding]:
        gains, solid = gains_of(layer)
        if not len(gains) or layer.variance is None or (layer.variance < 0).any():
            return
        usual = float(np.median(gains[solid])) if solid.any() else subject.typical_gain
        if not usual:
            return
        eps = layer.assumed_eps
        bad = np.flatnonzero((layer.variance < _SHARE * eps) & (gains > _HUGE * usual))
        if not len(bad):
            return
        largest, lowest = float(gains[bad].max()), float(layer.variance[bad].min())
        yield Finding(
            VANISHING.code,
            "warning",
            layer.key(VARIANCE) + channel_list(bad),
            f"{among(bad, layer)} have a running_var far below eps (lowest {lowest:.3g}, eps {eps:.3g}): "
            f"their gain, up to {largest:.3g}, is {largest / usual:.0f} times the usual {usual:.3g}",
            evidence(layer, bad, lowest=lowest, eps=eps, gain=largest, usual_gain=usual),
            "the channel was constant in training: set its gamma to 0 or its variance to a floor, or prune "
            "it; check half precision",
        )
