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

# so many different numbers that happen to be rounded to half precision were rounded
_TELLING = 5


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
        if layer.mean is None or layer.variance is None or not _of_half(layer):
            return None
        if np.isnan(layer.mean).any() or np.isnan(layer.variance).any():
            return None
        infinite = {
            MEAN: np.flatnonzero(np.isinf(layer.mean)),
            VARIANCE: np.flatnonzero(np.isinf(layer.variance)),
        }
        tensor = VARIANCE if len(infinite[VARIANCE]) else MEAN
        if not len(infinite[tensor]):
            return None
        channels = np.union1d(infinite[MEAN], infinite[VARIANCE])
        return Finding(
            HALF_OVERFLOW.code,
            "error",
            layer.key(tensor) + channel_list(infinite[tensor]),
            f"{among(channels, layer)} have infinite running statistics, and all others are numbers of half "
            f"precision: values above {LARGEST:.0f} were cast to it",
            evidence(layer, channels, stored=True),
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
                f"{among(channels, layer)} hold numbers that half precision cannot: {what} up to "
                f"{largest:.3g}, beyond {LARGEST:.0f}",
                evidence(
                    layer, channels, beyond={name: len(bad) for name, bad in beyond.items()}, largest=largest
                ),
                "keep this layer in float32, or fold in float64 and cast last; scale the inputs of the "
                "network",
            )
        ]


def _of_half(layer: Layer) -> bool:
    """Whether its numbers are those of a float16 file, in whatever type they are held now."""
    if layer.dtype == "float16":
        return True
    held = [array for array in (layer.mean, layer.variance, layer.weight, layer.bias) if array is not None]
    finite = np.concatenate([array[np.isfinite(array)] for array in held])
    # a float32 that was measured has 13 bits more, but 0 and 1 tell nothing
    with np.errstate(over="ignore"):
        rounded = finite.astype(np.float16).astype(np.float64)
    return len(np.unique(finite)) >= _TELLING and bool((rounded == finite).all())
