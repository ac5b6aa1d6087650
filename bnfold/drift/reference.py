"""What a network's own population statistics say about each tapped value: the reference that travels with it.

A *tap* is the mean of one channel over the positions of one frame, taken where a BatchNorm gives its output
(or is given its input, where the output does not exist after folding). In population terms, with the running
mean mu and variance var of training:

    of the output:  mean beta,  deviation |gamma| sqrt(var / (var + eps))
    of the input:   mean mu,    deviation sqrt(var)

The deviation is that of a single value; a mean over H x W positions varies less, by an unknown factor between
1 / (H W) and 1. So it bounds the deviation of a tap, and equals it where there is one position.

On request each tap has a second beside it: the mean square about the population mean, whose mean in training
is the variance. It is kept as a layer of its own, see :meth:`LayerReference.squares`.

An artifact with role ``monitor`` keeps the document of :meth:`Reference.to_json` in
``manifest["drift_reference"]``. For each layer it has one further graph output of shape (batch, channels),
whose name among the manifest's outputs is the layer's ``tap``.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.baseline import Baseline
from bnfold.errors import ArtifactError

Array = NDArray[np.float64]

SCHEMA = 2
"""1 has no second moments; a document without any is still written so."""

_DEAD = 1e-6
"""A channel whose deviation is this share of its layer's largest carries no signal to test."""


SQUARES = "^2"
"""What the name of a layer's second moments ends in."""


@dataclass(frozen=True)
class LayerReference:
    """One tapped BatchNorm in population terms.

    Attributes:
        name: of the call, as in the fold report: ``layer1.0.bn2``, ``path#2``.
        mean, deviation: shape (channels,), of the tapped value.
        positions: values per frame and channel: H x W, 1 without spatial axes.
        momentum: of the running average; None for a cumulative one.
        batches: ``num_batches_tracked``; None where it is not known.
        of: whether the taps see the BatchNorm's ``output`` or its ``input``.
        tap: the name of the artifact's output that carries the taps; empty for a module.
        moment: 1 for means, 2 for second moments, see :meth:`squares`.
    """

    name: str
    mean: Array
    deviation: Array
    positions: int
    momentum: float | None = 0.1
    batches: int | None = None
    of: Literal["output", "input"] = "output"
    tap: str = ""
    moment: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        # As they are stored: a reference from a file and one from a module must say the same.
        for key in ("mean", "deviation"):
            rounded = np.asarray(getattr(self, key), dtype=np.float32).astype(np.float64)
            object.__setattr__(self, key, rounded)
        if self.mean.ndim != 1 or self.mean.shape != self.deviation.shape:
            raise ValueError(f"{self.name}: mean {self.mean.shape}, deviation {self.deviation.shape}")

    def squares(self) -> LayerReference:
        """The second moments of this layer about its mean: their own mean is the variance, in training.

        A normal value's square deviates from that by sqrt(2) times the variance, which is their unit here.
        """
        variance = np.square(self.deviation)
        return replace(
            self, name=self.name + SQUARES, mean=variance, deviation=math.sqrt(2) * variance, tap="", moment=2
        )

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Shape (channels,): False for a channel that gamma or the variance has shut off."""
        largest = float(self.deviation.max(initial=0.0))
        return np.asarray(self.deviation > _DEAD**self.moment * largest)

    def frames_behind(self, train_batch: int) -> float:
        """Frames' worth of data in the running mean: B (2 - m) / m, at most all that were seen."""
        seen = math.inf if self.batches is None else float(max(self.batches, 1))
        window = math.inf if self.momentum is None else (2 - self.momentum) / max(self.momentum, 1e-9)
        return train_batch * min(seen, window)


@dataclass(frozen=True)
class Reference:
    """All tapped layers in execution order, and what was recorded on held-out frames.

    Attributes:
        layers: in execution order.
        left_out: BatchNorm calls without a tap: why, by name.
        baseline: taps of the live channels on held-out frames (tier 1); None where none were recorded.
    """

    layers: tuple[LayerReference, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    baseline: Baseline | None = None

    @property
    def channels(self) -> int:
        return sum(layer.channels for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; arrays as base64 of little-endian float32."""
        return {
            "schema": SCHEMA if any(layer.moment == 2 for layer in self.layers) else 1,
            "layers": [
                {
                    "name": layer.name,
                    "tap": layer.tap,
                    "of": layer.of,
                    "channels": layer.channels,
                    "positions": layer.positions,
                    **({"moment": 2} if layer.moment == 2 else {}),
                    "momentum": layer.momentum,
                    "batches": layer.batches,
                    "mean": pack(layer.mean),
                    "deviation": pack(layer.deviation),
                }
                for layer in self.layers
            ],
            "left_out": dict(self.left_out),
            "baseline": None if self.baseline is None else self.baseline.to_json(),
        }

    @classmethod
    def from_json(cls, document: Any, *, where: str = "drift reference") -> Reference:
        """The reverse of :meth:`to_json`.

        Raises:
            ArtifactError: BNF-M030 the document is damaged or of a newer schema; the message says what of it.
        """
        entry = _Entry(document, where)
        if not 1 <= entry.number("schema", kind=int) <= SCHEMA:
            entry.fail("schema", f"is {document['schema']}; this bnfold reads 1 to {SCHEMA}")
        layers = tuple(_layer(item, where) for item in entry.items("layers"))
        names = [layer.name for layer in layers]
        if len(set(names)) != len(names):
            entry.fail("layers", "names one twice")
        left_out = document.get("left_out", {})
        if not isinstance(left_out, dict) or not all(isinstance(v, str) for v in left_out.values()):
            entry.fail("left_out", "is no table of names and reasons")
        recorded = document.get("baseline")
        try:
            baseline = None if recorded is None else Baseline.from_json(recorded)
        except (KeyError, TypeError, ValueError) as error:
            entry.fail("baseline", f"is damaged: {error}")
        if baseline is not None and baseline.channels != sum(int(layer.alive.sum()) for layer in layers):
            entry.fail("baseline", f"has {baseline.channels} channels")
        return cls(layers, dict(left_out), baseline)


def pack(values: Array) -> str:
    """An array as base64 of little-endian float32."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode("ascii")


def unpack(text: object, count: int) -> Array:
    """The reverse of :func:`pack`.

    Raises:
        ValueError: not base64, not ``count`` numbers, or numbers that are not finite.
    """
    if not isinstance(text, str):
        raise ValueError("is no text")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is not base64: {error}") from error
    if len(raw) != 4 * count:
        raise ValueError(f"has {len(raw)} bytes for {count} numbers")
    values = np.frombuffer(raw, dtype="<f4").astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("has numbers that are not finite")
    return values


def _layer(document: Any, where: str) -> LayerReference:
    entry = _Entry(document, where)
    of = entry.text("of")
    if of not in ("output", "input"):
        entry.fail("of", f"is {of!r}")
    count = entry.number("channels", kind=int)
    if count < 1:
        entry.fail("channels", f"is {count}")
    positions = entry.number("positions", kind=int)
    if positions < 1:
        entry.fail("positions", f"is {positions}")
    moment = document.get("moment", 1)
    if type(moment) is not int or moment not in (1, 2):
        entry.fail("moment", f"is {moment!r}")
    momentum = None if document.get("momentum") is None else float(entry.number("momentum"))
    batches = None if document.get("batches") is None else int(entry.number("batches", kind=int))
    arrays = {}
    for key in ("mean", "deviation"):
        try:
            arrays[key] = unpack(document.get(key), int(count))
        except ValueError as error:
            entry.fail(key, str(error))
    if (arrays["deviation"] < 0).any():
        entry.fail("deviation", "has negative numbers")
    if momentum is not None and not 0 <= momentum <= 1:
        entry.fail("momentum", f"is {momentum}")
    return LayerReference(
        entry.text("name"), arrays["mean"], arrays["deviation"], int(positions), momentum, batches,
        "output" if of == "output" else "input", entry.text("tap"), 2 if moment == 2 else 1,
    )  # fmt: skip


class _Entry:
    """Reads one JSON object and says what is wrong with it."""

    def __init__(self, document: Any, where: str) -> None:
        self._document = document
        self._where = where
        if not isinstance(document, dict):
            self.fail("it", "is no JSON object")

    def text(self, key: str) -> str:
        value = self._document.get(key)
        if not isinstance(value, str):
            self.fail(key, "is missing" if value is None else "is no text")
        return value

    def number(self, key: str, *, kind: type = float) -> float:
        value = self._document.get(key)
        allowed = (int,) if kind is int else (int, float)
        if type(value) not in allowed or not math.isfinite(value):
            self.fail(key, "is missing" if value is None else f"is {value!r}, no number")
        number: float = value
        return number

    def items(self, key: str) -> list[Any]:
        value = self._document.get(key)
        if not isinstance(value, list) or not value:
            self.fail(key, "is missing or empty")
        return value

    def fail(self, key: str, what: str) -> NoReturn:
        name = self._document.get("name", "") if isinstance(self._document, dict) else ""
        layer = f"layer {name!r}, " if isinstance(name, str) and name else ""
        raise ArtifactError(
            "BNF-M030",
            f"the drift reference is damaged: {layer}{key} {what}",
            where=self._where,
            fix="convert the checkpoint again with --monitor",
        )
