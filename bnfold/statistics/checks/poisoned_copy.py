"""An averaged copy of the weights whose statistics are not finite, beside plain weights whose are.

The plain network forgets a NaN batch when its buffers are reset or reloaded; its average never does, and it
is often the copy that is deployed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics.causes import NON_FINITE, ONE_VALUE, POISONED_COPY
from bnfold.statistics.checks._base import Check, among, channel_list, evidence
from bnfold.statistics.layers import MEAN, VARIANCE
from bnfold.statistics.subject import Subject


class PoisonedCopy(Check):
    """A layer that is not finite here and finite in the plain weights."""

    causes = (POISONED_COPY,)
    supersedes = (NON_FINITE, ONE_VALUE)

    def examine(self, subject: Subject) -> Iterable[Finding]:
        """One finding per layer."""
        plain = subject.plain
        if plain is None:
            return
        for layer in subject.layers:
            twin = plain.layer(layer.name)
            if twin is None or not twin.is_finite or layer.mean is None or layer.variance is None:
                continue
            mean = np.flatnonzero(~np.isfinite(layer.mean))
            variance = np.flatnonzero(~np.isfinite(layer.variance))
            channels = np.union1d(mean, variance)
            if not len(channels):
                continue
            tensor, bad = (MEAN, mean) if len(mean) else (VARIANCE, variance)
            other = f'"{plain.name}"' if plain.name else "the other file"
            yield Finding(
                POISONED_COPY.code,
                "error",
                layer.key(tensor) + channel_list(bad),
                f"{among(channels, layer)} have running statistics that are not finite, while those of "
                f"{other} are: an averaged copy never forgets a batch that was not finite",
                evidence(layer, channels, plain=plain.name),
                f"take the weights of {other}, or reset the copy's statistics and recalibrate (bnfold "
                "recalibrate)",
            )

    def follows(self, finding: Finding) -> bool:
        """One batch poisoned all of the copy."""
        return True
