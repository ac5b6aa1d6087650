"""Where a low-precision file loses most: the noise that each operator adds to the signal passing through it.

For a tensor, noise is the square of the difference between the two files' values, in units of the square of
the float32 value, summed over the frames. What an operator adds is the noise of its output less that of its
noisiest input: rounding its weights and its output costs that, whatever came before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnfold.inner_values import Feeds
from bnfold.quantize.inside import steps, values

SHOWN = 5
_THRESHOLDS = ("Relu", "Clip")


@dataclass(frozen=True)
class Loss:
    """What one layer adds.

    Attributes:
        target: ``onnx`` or ``tflite``.
        layer: the module's qualified name, where the exporter keeps it; else the tensor's name in the file.
        operator: the file's.
        snr_db: signal against the noise that this operator adds, in decibels.
        share: of the noise that all operators add.
    """

    target: str
    layer: str
    operator: str
    snr_db: float
    share: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "target": self.target,
            "layer": self.layer,
            "operator": self.operator,
            "snr_db": self.snr_db,
            "share": self.share,
        }


def of_files(
    target: str,
    exact: bytes,
    lowered: bytes,
    tensors: Mapping[str, str],
    layers: Mapping[str, str],
    calls: Sequence[Feeds],
) -> list[Loss]:
    """The layers that lose most, the worst first, at most five.

    Args:
        exact: the float32 file.
        lowered: the low-precision file.
        tensors: the float32 file's name of a tensor -> the other's, where they differ.
        layers: the float32 file's name of a tensor -> the layer that makes it.
        calls: the frames to look at.
    """
    order = steps(target, exact)
    computed = {name for step in order for name in (*step.inputs, *step.outputs)}
    noise = _noise(target, exact, lowered, {name: tensors.get(name, name) for name in computed}, calls)
    added: dict[tuple[str, str], float] = {}
    owner: dict[str, tuple[str, str]] = {}  # tensor -> the layer that it counts for, and its operator
    for step in order:
        if not step.outputs:
            continue
        first = step.outputs[0]
        own = (layers.get(first) or first, step.operator)
        # a threshold is one with the operator before it: only its output is rounded
        made = owner.get(step.inputs[0], own) if step.operator in _THRESHOLDS and step.inputs else own
        owner.update(dict.fromkeys(step.outputs, made))
        here = max((noise.get(name, 0.0) for name in step.outputs), default=0.0)
        before = max((noise.get(name, 0.0) for name in step.inputs), default=0.0)
        if here > before:
            added[made] = added.get(made, 0.0) + here - before
    total = sum(added.values())
    worst = sorted(added.items(), key=lambda item: -item[1])[:SHOWN]
    return [
        Loss(target, layer, operator, -10 * math.log10(amount), amount / total)
        for (layer, operator), amount in worst
    ]


def _noise(
    target: str, exact: bytes, lowered: bytes, tensors: Mapping[str, str], calls: Sequence[Feeds]
) -> dict[str, float]:
    """The noise of each tensor that is computed and that both files have, in units of its signal."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    both = zip(values(target, exact, calls), values(target, lowered, calls), strict=True)
    for ours, theirs in both:
        for name, counterpart in tensors.items():
            value, other = ours.get(name), theirs.get(counterpart)
            if value is None or other is None or other.shape != value.shape or not np.isfinite(value).all():
                continue
            wide = value.astype(np.float64)
            signal[name] = signal.get(name, 0.0) + float((wide**2).sum())
            noise[name] = noise.get(name, 0.0) + float(((other - wide) ** 2).sum())
    return {name: amount / signal[name] for name, amount in noise.items() if signal[name] > 0}
