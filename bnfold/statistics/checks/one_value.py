"""One value per channel: batch 1 and no spatial extent left, so the unbiased variance is 0 / 0.

The mean of one value is finite, so only the variance is NaN. Training does not notice: it divides by n.
"""

from __future__ import annotations

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics.causes import ONE_VALUE
from bnfold.statistics.checks._base import LayerCheck, among, channel_list, evidence
from bnfold.statistics.layers import VARIANCE, Layer


class OneValue(LayerCheck):
    """A variance that is NaN where the mean is finite."""

    causes = (ONE_VALUE,)
    stops = True

    def of_layer(self, layer: Layer) -> list[Finding]:
        """At most one finding."""
        if layer.mean is None or layer.variance is None:
            return []
        bad = np.flatnonzero(np.isnan(layer.variance))
        if not len(bad) or not np.isfinite(layer.mean).all() or np.isinf(layer.variance).any():
            return []
        why = "a training batch had one value per channel, and its variance is 0 / 0"
        if len(bad) < layer.channels:
            why = "a variance of 0 / 0, though one value per channel would have hit every channel"
        return [
            Finding(
                ONE_VALUE.code,
                "error",
                layer.key(VARIANCE) + channel_list(bad),
                f"{among(bad, layer)} have a running_var that is NaN while running_mean is finite: {why}",
                evidence(layer, bad),
                "train with drop_last=True or larger batches; here, reset the statistics and recalibrate "
                "(bnfold recalibrate): averaging never heals them",
            )
        ]
