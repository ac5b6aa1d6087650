"""A batch that was not finite entered the running average, which never forgets it: 0.9 * NaN is NaN.

Mixed precision does this: the gradient scaler skips the step, and the buffers have been updated already. In
the first layer that it hits, all channels mean that it came from before the layer, a few that it arose in
what feeds these channels. Whatever comes after is NaN as a consequence.

A variance alone that is infinite is another form of it: squares that overflow float32 in one batch.
"""

from __future__ import annotations

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics.causes import NON_FINITE
from bnfold.statistics.checks._base import LayerCheck, among, channel_list, evidence
from bnfold.statistics.layers import MEAN, VARIANCE, Layer


class NonFinite(LayerCheck):
    """A mean that is not finite, or a variance that is infinite."""

    causes = (NON_FINITE,)
    stops = True

    def of_layer(self, layer: Layer) -> list[Finding]:
        """At most one finding: mean and variance of a channel have one cause."""
        none = np.zeros(0, dtype=int)
        mean = none if layer.mean is None else np.flatnonzero(~np.isfinite(layer.mean))
        variance = none if layer.variance is None else np.flatnonzero(~np.isfinite(layer.variance))
        infinite = layer.variance is not None and bool(np.isinf(layer.variance).any())
        if not len(mean) and not infinite:
            return []
        channels = np.union1d(mean, variance)
        if not len(mean):
            tensor, what = VARIANCE, "a running_var that is infinite while running_mean is finite"
            why = "a batch held values whose squares overflow"
        else:
            tensor, what = MEAN, "running statistics that are not finite"
            why = (
                "every channel is hit, so the value came from before this layer"
                if len(channels) == layer.channels
                else "the other channels are finite, so the value arose in what feeds these"
            )
        return [
            Finding(
                NON_FINITE.code,
                "error",
                layer.key(tensor) + channel_list(mean if len(mean) else variance),
                f"{among(channels, layer)} have {what}: {why}",
                evidence(layer, channels, not_finite={MEAN: len(mean), VARIANCE: len(variance)}),
                "reset the statistics and recalibrate with finite frames (bnfold recalibrate): averaging "
                "never heals them; then find the frame or the step that was not finite",
            )
        ]

    def follows(self, finding: Finding) -> bool:
        """A mean is poisoned by what came in; an overflow of squares is a layer's own."""
        return bool(finding.evidence["not_finite"][MEAN])
