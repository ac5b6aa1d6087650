"""A layer without population statistics: in eval mode it normalises by the batch."""

from __future__ import annotations

from bnfold.finding import Finding
from bnfold.statistics.causes import BATCH_DEPENDENT
from bnfold.statistics.checks._base import LayerCheck, evidence
from bnfold.statistics.layers import MEAN, VARIANCE, Layer


class BatchStatistics(LayerCheck):
    """A mean or a variance that is not stored."""

    causes = (BATCH_DEPENDENT,)
    stops = True

    def of_layer(self, layer: Layer) -> list[Finding]:
        """At most one finding."""
        missing = [
            name
            for name, held in ((MEAN, layer.mean), (VARIANCE, layer.variance))
            if held is None and name not in layer.unreadable
        ]
        return [batch_dependent(layer)] if missing else []


def batch_dependent(layer: Layer) -> Finding:
    """The finding for a BatchNorm that uses batch statistics in eval mode, stored ones or not."""
    return Finding(
        BATCH_DEPENDENT.code,
        "error",
        layer.name,
        "batch statistics are used in eval mode: the answer for a frame depends on its batch",
        evidence(layer, stored_statistics=layer.mean is not None),
        "give the layer population statistics: track_running_stats=True, then bnfold recalibrate",
    )
