"""What a monitor's codes mean, so that a state can be judged without the artifact that it came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.baseline import Baseline
from bnfold.drift.reference import LayerReference
from bnfold.drift.taps import spread_factor

_LEAST_STEP = 2.0**-14  # the least normal number of float16


@dataclass(frozen=True)
class LayerScale:
    """One layer's part of the columns.

    Attributes:
        name: of the BatchNorm call.
        columns: how many of the state's columns are this layer's.
        behind: frames' worth of data in what the codes are compared with.
        batches: of training, as :func:`bnfold.drift.tier0.judge` takes them; None for a baseline.
        factor: see :func:`bnfold.drift.taps.spread_factor`; infinite where nothing bounds the spread.
        single: whether a code stands for one value, whose deviation the population statistics tell; False for
            a baseline.
    """

    name: str
    columns: int
    behind: float
    batches: int | None
    factor: float
    single: bool

    def to_json(self) -> list[Any]:
        """Plain JSON types; what is infinite is null."""
        numbers = (self.behind, self.factor)
        behind, factor = (number if math.isfinite(number) else None for number in numbers)
        return [self.name, self.columns, behind, self.batches, factor, self.single]

    @classmethod
    def from_json(cls, document: Any) -> LayerScale:
        """The reverse of :meth:`to_json`.

        Raises:
            ValueError, TypeError: it is no such document.
        """
        name, columns, behind, batches, factor, single = document
        numbers = [math.inf if value is None else float(value) for value in (behind, factor)]
        whole = all(type(size) is int and size >= 0 for size in (columns, 0 if batches is None else batches))
        named = isinstance(name, str) and isinstance(single, bool)
        if not (named and whole and numbers[0] > 0 and numbers[1] > 0):
            raise ValueError(f"{document!r} is no layer")
        return cls(name, columns, numbers[0], batches, numbers[1], single)


def _none() -> NDArray[np.float16]:
    return np.empty(0, dtype=np.float16)


@dataclass(frozen=True)
class Scale:
    """Codes to deviations of training: a code c of a column stands for (c - zero) step beyond the reference.

    Attributes:
        tier: 0: the reference is the population mean; 1: the mean of the held-out frames.
        layers: in execution order.
        zero, step: float16, shape (columns,).
    """

    tier: int = 0
    layers: tuple[LayerScale, ...] = ()
    zero: NDArray[np.float16] = field(default_factory=_none)
    step: NDArray[np.float16] = field(default_factory=_none)

    @classmethod
    def of(
        cls,
        layers: Sequence[LayerReference],
        sizes: Sequence[int],
        levels: Baseline,
        train_batch: int,
    ) -> Scale:
        """Of a monitor.

        Args:
            layers, sizes: of the reference, and how many columns each has.
            levels: what the codes of the columns stand for, and the held-out frames that they are compared
                with; without frames it is the population statistics.
            train_batch: the batch of training.
        """
        known = levels.frames > 0
        mean = levels.values.mean(axis=0) if known else 0.0
        parts = tuple(
            LayerScale(
                layer.name,
                size,
                float(levels.frames) if known else layer.frames_behind(train_batch),
                None if known or layer.momentum is None else layer.batches,
                spread_factor(layer, train_batch),
                not known and layer.positions == 1,
            )
            for layer, size in zip(layers, sizes, strict=True)
        )
        steps = np.maximum(levels.step, _LEAST_STEP)
        zero = np.clip((mean - levels.low) / levels.step, -1024, 1024)
        return cls(int(known), parts, zero.astype(np.float16), steps.astype(np.float16))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of each layer."""
        return tuple(layer.columns for layer in self.layers)

    def deviations(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """Codes (or means of codes), shape (..., columns), as shifts from the reference."""
        return np.asarray((codes - self.zero.astype(np.float64)) * self.step.astype(np.float64))

    def same(self, other: Scale) -> bool:
        """Whether codes mean the same in both."""
        return (
            (self.tier, self.layers) == (other.tier, other.layers)
            and np.array_equal(self.zero, other.zero)
            and np.array_equal(self.step, other.step)
        )

    def to_json(self) -> dict[str, Any]:
        """All but the arrays."""
        return {"tier": self.tier, "layers": [layer.to_json() for layer in self.layers]}

    @classmethod
    def from_json(cls, document: Any, zero: NDArray[np.float16], step: NDArray[np.float16]) -> Scale:
        """The reverse of :meth:`to_json`.

        Raises:
            ValueError, TypeError, KeyError: it is no such document, or has other columns than the arrays.
        """
        layers = tuple(LayerScale.from_json(item) for item in document["layers"])
        if document["tier"] not in (0, 1) or sum(layer.columns for layer in layers) != len(zero):
            raise ValueError("its layers do not have the columns that are there")
        if not (np.isfinite(zero).all() and np.isfinite(step).all() and (step > 0).all()):
            raise ValueError("its scale has numbers that are not finite or no steps")
        return cls(int(document["tier"]), layers, zero, step)
