"""The numbers of every layer: for a table, and for plots where every channel is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bnfold.statistics.layers import Array, Layer
from bnfold.statistics.subject import Subject


@dataclass(frozen=True)
class Figures:
    """One layer's numbers.

    Attributes:
        state: the state dict it is in; empty where there is only one.
        layer: as stored.
        initial_weight: what the initial mean 0 and variance 1 still weigh in its average; None if unknown.
    """

    state: str
    layer: Layer
    initial_weight: float | None

    @property
    def gains(self) -> Array | None:
        """|s| per channel, s = gamma / sqrt(var + eps); None where it is no number."""
        affine = self.layer.affine
        return None if affine is None else np.abs(affine.scale)

    @property
    def dead(self) -> int | None:
        """How many channels are constant: gamma is 0."""
        gains = self.gains
        return None if gains is None else int((gains == 0).sum())

    def to_json(self, *, channels: bool = False) -> dict[str, Any]:
        """Plain JSON types; with ``channels`` every array by channel as well."""
        layer, affine, gains = self.layer, self.layer.affine, self.gains
        document: dict[str, Any] = {
            "name": layer.name,
            "state": self.state,
            "aliases": list(layer.aliases),
            "channels": layer.channels,
            "dtype": layer.dtype,
            "num_batches_tracked": layer.updates,
            "initial_weight": self.initial_weight,
            "mean": _range(layer.mean),
            "variance": _range(layer.variance),
            "gain": None if gains is None else {**_range(gains), "median": _median(gains)},  # type: ignore[dict-item]
            "shift": None if affine is None else _range(affine.shift),
            "dead": self.dead,
        }
        if channels:
            document["by_channel"] = {
                "mean": _list(layer.mean),
                "variance": _list(layer.variance),
                "weight": _list(layer.weight),
                "bias": _list(layer.bias),
                "scale": None if affine is None else _list(affine.scale),
                "shift": None if affine is None else _list(affine.shift),
            }
        return document


def figures_of(subject: Subject, state: str = "") -> list[Figures]:
    """Of every layer, in the order of the layers."""
    return [Figures(state, layer, subject.initial_weight(layer)) for layer in subject.layers]


def _range(values: Array | None) -> dict[str, Any] | None:
    if values is None:
        return None
    finite = values[np.isfinite(values)]
    return {
        "min": float(finite.min()) if len(finite) else None,
        "max": float(finite.max()) if len(finite) else None,
        "non_finite": int(len(values) - len(finite)),
    }


def _median(values: Array) -> float | None:
    return float(np.median(values)) if len(values) else None


def _list(values: Array | None) -> list[float | None] | None:
    """JSON has no NaN and no infinity: both become null."""
    if values is None:
        return None
    return [float(value) if np.isfinite(value) else None for value in values]
