"""Statistics that belong to something else: keys that were mixed up, a file that was put together wrongly.

No two sets of real statistics are equal bit for bit. So a variance that equals the layer's own mean, another
layer's statistics or some parameter was assigned from there; mean and variance that have changed places show
in variances of both signs beside means of one; a mean and a variance of different lengths are of two layers.

Numbers that were set by hand (constants, steps of equal size) say nothing. A copy that holds the whole of
another layer, its parameters included, is the same layer under two names, and an averaged or target network
inside the same module keeps the statistics of its twin on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics.causes import MISASSIGNED, NEGATIVE
from bnfold.statistics.checks._base import Check, evidence
from bnfold.statistics.checks.negative import cancellation_explains
from bnfold.statistics.layers import MEAN, VARIANCE, Array, Layer
from bnfold.statistics.subject import Subject

# of the channels, of either sign: a few negative variances are no exchange
_SHARE = 0.3
_TWIN = re.compile(
    r"(^|[._])(ema|swa|averaged?|shadow|teacher|target|momentum|mean|key|online)([._\d]|$)", re.I
)


class Misassigned(Check):
    """Equal tensors, exchanged tensors, tensors of different lengths."""

    causes = (MISASSIGNED,)
    supersedes = (NEGATIVE,)

    def examine(self, subject: Subject) -> Iterable[Finding]:
        """At most one finding per layer."""
        seen: dict[bytes, list[tuple[str, Layer]]] = {}
        parameters = _vectors(subject)
        for layer in subject.layers:
            told = _lengths(layer) or _itself(layer) or _swapped(layer) or _other(layer, seen, parameters)
            if told is not None:
                tensor, what, source = told
                yield Finding(
                    MISASSIGNED.code,
                    "error",
                    layer.key(tensor),
                    f"{what}: it was assigned from something else",
                    evidence(layer, range(layer.channels), tensor=tensor, equals=source),
                    "load an intact file and compare the keys; or reset the statistics and recalibrate "
                    "(bnfold recalibrate)",
                )
            for tensor, values in _statistics(layer):
                seen.setdefault(values.tobytes(), []).append((tensor, layer))


Told = tuple[str, str, str]


def _lengths(layer: Layer) -> Told | None:
    mean, variance = layer.mean, layer.variance
    if mean is None or variance is None or len(mean) == len(variance):
        return None
    return VARIANCE, f"running_var has {len(variance)} values and running_mean {len(mean)}", layer.key(MEAN)


def _itself(layer: Layer) -> Told | None:
    held = {MEAN: layer.mean, VARIANCE: layer.variance, "weight": layer.weight, "bias": layer.bias}
    for tensor, source in ((VARIANCE, MEAN), *((t, p) for t in (VARIANCE, MEAN) for p in ("weight", "bias"))):
        values, other = held[tensor], held[source]
        if values is not None and other is not None and _telling(other) and np.array_equal(values, other):
            return tensor, f"{tensor} equals the layer's own {source} bit for bit", layer.key(source)
    return None


def _swapped(layer: Layer) -> Told | None:
    mean, variance = layer.mean, layer.variance
    if mean is None or variance is None or not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        return None
    below, above = int((variance < 0).sum()), int((variance > 0).sum())
    if min(below, above) < max(2, _SHARE * len(variance)) or not (mean > 0).all() or not _telling(mean):
        return None
    if cancellation_explains(layer):
        return None
    return (
        VARIANCE,
        f"{below} of {len(variance)} values of running_var are negative and all of running_mean are "
        "positive, so mean and "
        "variance have changed places",
        layer.key(MEAN),
    )


def _other(
    layer: Layer, seen: dict[bytes, list[tuple[str, Layer]]], parameters: dict[bytes, str]
) -> Told | None:
    for tensor, values in _statistics(layer):
        for theirs, other in seen.get(values.tobytes(), []):
            if not (_same(layer, other) or _twins(layer, other)):
                source = other.key(theirs)
                return tensor, f"{tensor} equals {source} bit for bit", source
        source = parameters.get(values.tobytes(), "")
        if source and source not in (layer.key("weight"), layer.key("bias")):
            return tensor, f"{tensor} equals {source} bit for bit", source
    return None


def _statistics(layer: Layer) -> Iterator[tuple[str, Array]]:
    for tensor, values in ((VARIANCE, layer.variance), (MEAN, layer.mean)):
        if values is not None and _telling(values):
            yield tensor, values


def _vectors(subject: Subject) -> dict[bytes, str]:
    """Every telling parameter of one axis, by its numbers."""
    found: dict[bytes, str] = {}
    for name, values in subject.parameters():
        if values.ndim == 1 and _telling(numbers := values.astype(np.float64)):
            found.setdefault(numbers.tobytes(), name)
    return found


def _telling(values: Array) -> bool:
    """Whether numbers are of the kind that never comes twice: at least 2, finite, not in equal steps."""
    if len(values) < 2 or not np.isfinite(values).all():
        return False
    if len(values) == 2:
        return bool(values[0] != values[1]) and not set(values.tolist()) <= {0.0, 1.0, 2.0}
    steps = np.diff(values)
    return not np.allclose(steps, steps[0], rtol=1e-4, atol=1e-6 * float(np.abs(values).max(initial=0.0)))


def _same(layer: Layer, other: Layer) -> bool:
    """Whether two records are one layer: everything is equal."""
    pairs = [
        (layer.mean, other.mean),
        (layer.variance, other.variance),
        (layer.weight, other.weight),
        (layer.bias, other.bias),
    ]
    return all(
        (left is None and right is None)
        or (left is not None and right is not None and np.array_equal(left, right))
        for left, right in pairs
    )


def _twins(layer: Layer, other: Layer) -> bool:
    """Whether one is the other in an averaged copy of the network inside the same module."""
    left, right = layer.name.split("."), other.name.split(".")
    while left and right and left[-1] == right[-1]:
        left.pop()
        right.pop()
    return len(left) < len(layer.name.split(".")) and any(
        _TWIN.search(".".join(part)) for part in (left, right)
    )
