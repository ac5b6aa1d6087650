"""Two checkpoints with the same weights and other statistics.

    num_batches_tracked equal    the processes of one distributed training, each with its own batches
    num_batches_tracked moved    a layer whose weights were frozen and whose buffers were not
    neither known                one of the two

A layer counts as unchanged when its own parameters, and those between the BatchNorm before it and itself, are
equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics.causes import DRIFTED, MOVED_APART, RANKS
from bnfold.statistics.checks._base import Check, evidence, in_layers
from bnfold.statistics.layers import MEAN, UPDATES, Array, Layer, numbers
from bnfold.statistics.ordering import by_custom, is_by_name
from bnfold.statistics.subject import Subject


class Compared(Check):
    """Against another checkpoint."""

    causes = (DRIFTED, RANKS, MOVED_APART)

    def examine(self, subject: Subject) -> Iterable[Finding]:
        """One finding for all layers of a cause."""
        if subject.against is None:
            return
        found: dict[str, list[tuple[Layer, Layer]]] = {}
        for layer in subject.layers:
            twin = subject.against.layer(layer.name)
            if twin is None or not _both_usable(layer, twin) or not _same_weights(layer, subject):
                continue
            if np.array_equal(_both(layer), _both(twin)):
                continue
            found.setdefault(_kind(layer, twin), []).append((layer, twin))
        for kind, pairs in found.items():
            yield _found(kind, pairs, subject)


def _kind(layer: Layer, twin: Layer) -> str:
    if not layer.updates or not twin.updates:
        return "unknown"
    return "ranks" if layer.updates == twin.updates else "drifted"


def _found(kind: str, pairs: list[tuple[Layer, Layer]], subject: Subject) -> Finding:
    layers = [layer for layer, _ in pairs]
    first, twin = pairs[0]
    shift = max(_shift(layer, other) for layer, other in pairs)
    ratio = max(_ratio(layer, other) for layer, other in pairs)
    details = evidence(
        first,
        layers=[layer.name for layer in layers],
        updates=[first.updates, twin.updates],
        largest_shift=shift,
        largest_ratio=ratio,
    )
    moved = f"means by up to {shift:.2g} standard deviations, variances by up to a factor of {ratio:.2g}"
    where = first.key(MEAN)
    weights = (
        f"the weights are equal bit for bit, and the statistics differ {in_layers(layers, subject)}: {moved}"
    )
    if kind == "ranks":
        return Finding(
            RANKS.code,
            "warning",
            where,
            f"{weights}; both files have {UPDATES} {first.updates}, as processes of one training do",
            details,
            "merge the statistics of all processes by their counts (bnfold recalibrate --merge), or train "
            "with SyncBatchNorm",
        )
    if kind == "drifted":
        return Finding(
            DRIFTED.code,
            "warning",
            where,
            f"{weights}; {UPDATES} went from {twin.updates} to {first.updates}, so frozen layers went on "
            "updating",
            details,
            "put frozen BatchNorms in eval mode in training; restore the statistics of the other file, or "
            "recalibrate (bnfold recalibrate)",
        )
    return Finding(
        MOVED_APART.code,
        "warning",
        where,
        f"{weights}; without {UPDATES} in both files, processes of one training and a frozen layer that went "
        "on updating look alike",
        details,
        "recalibrate (bnfold recalibrate); for the cause, compare files that keep num_batches_tracked",
    )


def _both(layer: Layer) -> Array:
    assert layer.mean is not None
    assert layer.variance is not None
    return np.stack([layer.mean, layer.variance])


def _both_usable(layer: Layer, twin: Layer) -> bool:
    held = (layer.mean, layer.variance, twin.mean, twin.variance)
    if any(array is None or not np.isfinite(array).all() for array in held):
        return False
    return len({array.shape for array in held if array is not None}) == 1


def _same_weights(layer: Layer, subject: Subject) -> bool:
    """Whether the layer's own parameters and those before it are what they were."""
    other = subject.against
    assert other is not None
    compared = [layer.key(name) for name in ("weight", "bias") if layer.key(name) in subject.tensors]
    compared += _between(layer, subject)
    return bool(compared) and all(_equal(subject.tensors[name], other.tensors.get(name)) for name in compared)


def _between(layer: Layer, subject: Subject) -> list[str]:
    """Parameters after the BatchNorm before it and before its own; all beside it where it has none."""
    names = [name for name, _ in subject.parameters()]
    if not subject.is_module and is_by_name(names):
        names.sort(key=by_custom)
    norms = {other.key(name): other for other in subject.layers for name in ("weight", "bias")}
    own = [i for i, name in enumerate(names) if norms.get(name) is layer]
    if not own:
        parent = layer.name.rpartition(".")[0]
        return [
            name for name in names if name not in norms and name.startswith(f"{parent}." if parent else "")
        ]
    found = []
    for name in reversed(names[: own[0]]):
        if name in norms:
            break
        found.append(name)
    return found


def _equal(here: object, there: object) -> bool:
    left = None if here is None else numbers(here)
    right = None if there is None else numbers(there)
    return (
        left is not None and right is not None and left.shape == right.shape and bool((left == right).all())
    )


def _shift(layer: Layer, twin: Layer) -> float:
    assert layer.mean is not None
    assert twin.mean is not None
    assert twin.variance is not None
    spread = np.sqrt(np.maximum(twin.variance, 0) + twin.assumed_eps)
    return float((np.abs(layer.mean - twin.mean) / spread).max(initial=0.0))


def _ratio(layer: Layer, twin: Layer) -> float:
    assert layer.variance is not None
    assert twin.variance is not None
    left, right = (np.maximum(each.variance, 0) + each.assumed_eps for each in (layer, twin))  # type: ignore[arg-type]
    return float(np.maximum(left / right, right / left).max(initial=1.0))
