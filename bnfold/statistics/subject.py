"""What an audit looks at: one network's layers and parameters, and what else is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.statistics.layers import MEAN, MOMENTUM, UPDATES, VARIANCE, Layer, layers_of, numbers
from bnfold.statistics.ordering import by_custom, is_by_name


@dataclass(frozen=True)
class Subject:
    """One network: a module, or a state dict.

    Attributes:
        layers: its BatchNorms, in execution order where that is known, else in module order.
        tensors: its parameters by qualified name; of a state dict everything but statistics, buffers of
            other kinds included.
        is_module: whether there is a module, which tells parameters from buffers.
        name: of the state dict; empty where there is only one.
        ordered: whether the order is known; a file that sorts its tensors by name keeps none.
        averaged: whether its name says that it is an averaged (EMA, SWA) copy.
        steps: of training, where the user knows.
        momentum: of the running averages, where the user tells.
        calls: how often one forward pass calls each layer, by its name; None where nothing ran.
        plain: the network that this one is an averaged copy of.
        against: another checkpoint of the same network.
    """

    layers: tuple[Layer, ...]
    tensors: Mapping[str, Any]
    is_module: bool
    name: str = ""
    ordered: bool = True
    averaged: bool = False
    steps: int | None = None
    momentum: float | None = None
    calls: Mapping[str, int] | None = None
    plain: Subject | None = None
    against: Subject | None = None
    _by_name: dict[str, Layer] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._by_name.update((name, layer) for layer in self.layers for name in (layer.name, *layer.aliases))

    @classmethod
    def of(cls, source: Any, **known: Any) -> Subject:
        """Of an ``nn.Module`` or a state dict.

        Raises:
            TypeError: it is neither.
        """
        layers = tuple(layers_of(source))
        if hasattr(source, "named_modules"):
            return cls(layers, dict(source.named_parameters()), True, **known)
        own = (MEAN, VARIANCE, UPDATES)
        ordered = True
        if is_by_name([layer.name for layer in layers]):
            by_name = [layer.name for layer in layers]
            layers = tuple(sorted(layers, key=lambda layer: by_custom(layer.name)))
            ordered = [layer.name for layer in layers] == by_name
        tensors = {str(key): value for key, value in source.items() if str(key).rpartition(".")[2] not in own}
        return cls(layers, tensors, False, ordered=ordered, **known)

    def layer(self, name: str) -> Layer | None:
        """The layer of that qualified name."""
        return self._by_name.get(name)

    def parameters(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Tensors that hold floating-point numbers, by qualified name, in order."""
        for name, held in self.tensors.items():
            values = numbers(held)
            if values is not None and values.dtype.kind == "f":
                yield name, values

    def momentum_of(self, layer: Layer) -> tuple[float | None, bool]:
        """A layer's momentum, and whether that is an assumption; None for a cumulative average."""
        if self.momentum is not None:
            return self.momentum, False
        if layer.known:
            return layer.momentum, False
        return MOMENTUM, True

    def updates_of(self, layer: Layer) -> int | None:
        """How often its statistics were updated; the training steps where the layer does not count."""
        return self.steps if layer.updates is None else layer.updates

    def initial_weight(self, layer: Layer) -> float | None:
        """(1 - momentum)^T: what the initial mean 0 and variance 1 weigh in the average after T updates.

        None where that is not known: no count, no update, or a momentum of 0, which freezes the layer. A
        cumulative average has no initial value.
        """
        momentum, _ = self.momentum_of(layer)
        updates = self.updates_of(layer)
        if not updates or momentum == 0:
            return None
        if momentum is None:
            return 0.0
        return float(max(0.0, 1.0 - momentum) ** updates)

    @cached_property
    def typical_gain(self) -> float | None:
        """The median of |s| over the channels of all layers whose variance is above their eps."""
        gains = [gain[solid] for layer in self.layers for gain, solid in [gains_of(layer)] if solid.any()]
        return float(np.median(np.concatenate(gains))) if gains else None


def gains_of(layer: Layer) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """|s| per channel, and which channels' variance is above eps; empty where a layer gives no numbers."""
    affine = layer.affine
    if affine is None or layer.variance is None:
        return np.zeros(0), np.zeros(0, dtype=bool)
    return np.abs(affine.scale), layer.variance > layer.assumed_eps


def reordered(subject: Subject, names: Sequence[str]) -> tuple[Layer, ...]:
    """The layers in the order of these names; those that are not named keep their order, at the end."""
    place = {name: number for number, name in reversed(list(enumerate(names)))}
    known = [
        min((place[n] for n in (layer.name, *layer.aliases) if n in place), default=len(names))
        for layer in subject.layers
    ]
    return tuple(subject.layers[i] for i in sorted(range(len(known)), key=lambda i: known[i]))
