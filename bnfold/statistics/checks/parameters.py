"""Parameters that are not finite: training diverged. The statistics are beside the point then.

In a state dict parameters and buffers look alike. A buffer may hold infinities on purpose (an attention
mask), so there a tensor that is no weight and no bias counts only when it holds NaN.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics.causes import DIVERGED
from bnfold.statistics.checks._base import LayerCheck, among, channel_list, evidence
from bnfold.statistics.layers import Layer
from bnfold.statistics.subject import Subject

_REMEDY = "training diverged: take an earlier checkpoint"


class Parameters(LayerCheck):
    """Weights and biases of every layer, BatchNorm or not."""

    causes = (DIVERGED,)
    relation = "as in"
    stops = True

    def examine(self, subject: Subject) -> Iterable[Finding]:
        """One finding per tensor; a BatchNorm's names its channels."""
        ours = {layer.key(name): layer for layer in subject.layers for name in ("weight", "bias")}
        for name, values in subject.parameters():
            if bool(np.isfinite(values).all()):
                continue
            named = name.rpartition(".")[2] in ("weight", "bias")
            if not subject.is_module and not named and not np.isnan(values).any():
                continue
            if name in ours and getattr(ours[name], name.rpartition(".")[2]) is not None:
                yield self._of(ours[name], name.rpartition(".")[2])
                continue
            bad = int((~np.isfinite(values)).sum())
            yield Finding(
                DIVERGED.code,
                "error",
                name,
                f"{bad} of {values.size} values of {name} are not finite",
                {"tensor": name, "count": values.size, "not_finite": bad},
                _REMEDY,
            )

    def of_layer(self, layer: Layer) -> list[Finding]:
        """Gamma and beta of one BatchNorm."""
        held = {"weight": layer.weight, "bias": layer.bias}
        return [
            self._of(layer, name)
            for name, values in held.items()
            if values is not None and not np.isfinite(values).all()
        ]

    def follows(self, finding: Finding) -> bool:
        """A loss that is not finite reaches every parameter in one step."""
        return True

    def _of(self, layer: Layer, name: str) -> Finding:
        bad = np.flatnonzero(~np.isfinite(getattr(layer, name)))
        return Finding(
            DIVERGED.code,
            "error",
            layer.key(name) + channel_list(bad),
            f"{among(bad, layer)} have a {name} that is not finite",
            evidence(layer, bad, tensor=layer.key(name)),
            _REMEDY,
        )
