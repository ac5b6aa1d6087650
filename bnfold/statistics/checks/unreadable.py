"""Statistics that are no plain numbers: quantized, sparse, complex, or without data."""

from __future__ import annotations

from collections.abc import Iterable

from bnfold.finding import Finding
from bnfold.statistics.causes import UNREADABLE
from bnfold.statistics.checks._base import Check, evidence
from bnfold.statistics.layers import MEAN, VARIANCE
from bnfold.statistics.subject import Subject


class Unreadable(Check):
    """A running mean or variance that cannot be looked at."""

    causes = (UNREADABLE,)

    def examine(self, subject: Subject) -> Iterable[Finding]:
        """One finding per layer."""
        for layer in subject.layers:
            held = [name for name in (MEAN, VARIANCE) if name in layer.unreadable]
            if held:
                yield Finding(
                    UNREADABLE.code,
                    "warning",
                    layer.key(held[0]),
                    f"{' and '.join(held)} hold no plain numbers (quantized, sparse, complex or without "
                    "data), so nothing is known of them",
                    evidence(layer, tensors=held),
                    "save dense tensors of real numbers: value.to_dense(), .dequantize()",
                )
