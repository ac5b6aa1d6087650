"""Statistics as a new layer has them: mean 0 and variance 1 in every channel.

An averaged copy of the weights that forgot the buffers, a layer that was frozen before it saw data, keys that
were not found with ``strict=False``. Some published weights are meant so (the statistics were folded into the
layer's own weight and bias), hence a warning.
"""

from __future__ import annotations

from collections.abc import Iterable

from bnfold.finding import Finding
from bnfold.statistics.causes import NEVER_UPDATED
from bnfold.statistics.checks._base import Check, evidence, in_layers
from bnfold.statistics.layers import UPDATES, VARIANCE, Layer
from bnfold.statistics.subject import Subject


class NeverUpdated(Check):
    """Mean 0 and variance 1 exactly, whatever the counter says."""

    causes = (NEVER_UPDATED,)

    def examine(self, subject: Subject) -> Iterable[Finding]:
        """One finding for all layers: they have one cause."""
        found = [layer for layer in subject.layers if layer.is_initial]
        if not found:
            return
        first = found[0]
        counted = max((layer.updates or 0) for layer in found)
        said = f"though {UPDATES} says {counted}" if counted else _count(first)
        yield Finding(
            NEVER_UPDATED.code,
            "warning",
            first.key(VARIANCE),
            f"mean 0 and variance 1 in every channel {in_layers(found, subject)}, as in a new layer, {said}",
            evidence(first, layers=[layer.name for layer in found], updates=first.updates),
            "copy the buffers of the network that was trained, or recalibrate (bnfold recalibrate); nothing "
            "to do where the statistics were folded into weight and bias on purpose",
        )


def _count(layer: Layer) -> str:
    return f"with {UPDATES} {'not stored' if layer.updates is None else layer.updates}"
