"""A variance below 0, or of 0 without an eps.

Its inverse square root is not finite where variance + eps <= 0; elsewhere it is wrong all the same.
E[x^2] - E[x]^2 in float32 leaves a few parts in 2^24 of mean^2 of either sign: that is how a recalibration
makes one. Anything larger is no rounding.
"""

from __future__ import annotations

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics.causes import NEGATIVE
from bnfold.statistics.checks._base import LayerCheck, among, channel_list, evidence
from bnfold.statistics.layers import VARIANCE, Array, Layer

# of mean^2: what sums over many values in float32 may leave
_ROUNDING = 64 * 2.0**-24


class Negative(LayerCheck):
    """A variance that is finite and negative."""

    causes = (NEGATIVE,)
    stops = True

    def of_layer(self, layer: Layer) -> list[Finding]:
        """At most one finding."""
        if layer.variance is None:
            return []
        eps = layer.assumed_eps
        bad = np.flatnonzero(
            np.isfinite(layer.variance) & ((layer.variance < 0) | (layer.variance + eps <= 0))
        )
        if not len(bad):
            return []
        variance = layer.variance[bad]
        lowest, nan = float(variance.min()), int((variance + eps <= 0).sum())
        effect = (
            f"in {nan} running_var + eps <= 0, and its inverse square root is not finite"
            if nan
            else "running_var + eps is still positive, so nothing is NaN yet"
        )
        rounding = cancellation_explains(layer)
        why = (
            "a variance of 0 needs an eps"
            if lowest == 0
            else "the cancellation of E[x^2] - E[x]^2 in float32 explains it"
            if rounding
            else "no rounding explains it: a damaged file or a wrong assignment"
        )
        return [
            Finding(
                NEGATIVE.code,
                "error",
                layer.key(VARIANCE) + channel_list(bad),
                f"{among(bad, layer)} have a running_var {'that is negative' if lowest < 0 else 'of 0'} "
                f"(lowest {lowest:.3g}, eps {eps:.3g}): {effect}; {why}",
                evidence(layer, bad, lowest=lowest, eps=eps, nan=nan, rounding=rounding),
                "recalibrate in float64 (bnfold recalibrate)"
                if rounding
                else "load an intact file, or reset the statistics and recalibrate (bnfold recalibrate)",
            )
        ]


def cancellation_explains(layer: Layer) -> bool:
    """Whether every negative variance is as small as rounding in float32 leaves it, given its mean."""
    if layer.variance is None or layer.mean is None or layer.mean.shape != layer.variance.shape:
        return False
    bad = layer.variance < 0
    size: Array = np.square(layer.mean[bad]) * _ROUNDING
    return bool((-layer.variance[bad] <= size).all())
