"""What half precision cannot hold: above 65504 a float16 is infinite.

A layer that is right in float32 gives NaN or zeros once it is cast, or folded and cast. Where the file is
float16 already and holds infinities, that has happened.
"""

from __future__ import annotations

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics.causes import HALF_OVERFLOW, NON_FINITE, ONE_VALUE
from bnfold.statistics.checks._base import LayerCheck, among, channel_list, evidence
from bnfold.statistics.layers import MEAN, VARIANCE, Layer

LARGEST = 65504.0


class HalfRange(LayerCheck):
    """Stored infinities in float16; finite numbers, or the folded scale and shift, beyond it."""

    causes = (HALF_OVERFLOW,)
    supersedes = (NON_FINITE, ONE_VALUE)
    stops = True

    def of_layer(self, layer: Layer) -> list[Finding]:
        """At most one finding."""
        stored = self._stored(layer)
        return [stored] if stored else self._coming(layer)

    def _stored(self, layer: Layer) -> Finding | None:
        if layer.dtype != "float16" or layer.mean is None or layer.variance is None:
            return None
        if np.isnan(layer.mean).any() or np.isnan(layer.variance).any() or np.isinf(layer.mean).any():
            return None
        bad = np.flatnonzero(np.isinf(layer.variance))
        if not len(bad):
            return None
        return Finding(
            HALF_OVERFLOW.code,
            "error",
            layer.key(VARIANCE) + channel_list(bad),
            f"{among(bad, layer)} have a running_var that is infinite in float16: a variance above 65504 was cast",
            evidence(layer, bad, stored=True),
            "take the float32 checkpoint; fold in float64 and cast the folded weights",
        )

    def _coming(self, layer: Layer) -> list[Finding]:
        affine = layer.affine
        if affine is None or layer.mean is None or layer.variance is None:
            return []
        held = {MEAN: layer.mean, VARIANCE: layer.variance, "weight": layer.weight, "bias": layer.bias}
        held |= {"scale": affine.scale, "shift": affine.shift}
        beyond = {
            name: np.flatnonzero(np.abs(values) > LARGEST)
            for name, values in held.items()
            if values is not None and (np.abs(values) > LARGEST).any()
        }
        if not beyond:
            return []
        tensor = next(iter(beyond))
        values = held[tensor]
        assert values is not None
        largest = float(np.abs(values).max())
        channels = np.unique(np.concatenate(list(beyond.values())))
        what = {"scale": "gamma / sqrt(var + eps)", "shift": "beta - mean s"}.get(tensor, tensor)
        at = {"scale": VARIANCE, "shift": MEAN}.get(tensor, tensor)
        return [
            Finding(
                HALF_OVERFLOW.code,
                "warning",
                layer.key(at) + channel_list(beyond[tensor]),
                f"{among(channels, layer)} hold numbers that half precision cannot: {what} up to {largest:.3g}, "
                f"beyond {LARGEST:.0f}",
                evidence(layer, channels, beyond={name: len(bad) for name, bad in beyond.items()}, largest=largest),
                "keep this layer in float32, or fold in float64 and cast last; scale the inputs of the network",
            )
        ]
