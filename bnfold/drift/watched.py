"""Which channels a monitor watches, and how their taps become bytes.

At most 640 columns, spread over the means of all layers; second moments are left to `bnfold.drift.check`. A
column's code is one byte: of the baseline's levels, or, where there is none, of 256 over four deviations of
training on either side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.baseline import LEVELS, Baseline
from bnfold.drift.looks import Kept
from bnfold.drift.pictures import Pictures
from bnfold.drift.reference import Reference
from bnfold.drift.scale import Scale

COLUMNS = 640
_REACH = 4.0  # deviations on either side that the codes cover where there is no baseline


class Watched:
    """The columns of one network and baseline.

    Attributes:
        sizes: columns of each layer.
        channels: of each layer, the channel numbers of its columns.
        pictures: the layout of the baseline's pictures; None where it has none.
        key: names the network, its baseline and the choice of columns.
        scale: what a code means.
    """

    def __init__(self, reference: Reference, known: Baseline | None, train_batch: int) -> None:
        layers = reference.layers
        self._layers = layers
        live = [np.flatnonzero(layer.alive) for layer in layers]
        means = [layer.moment == 1 for layer in layers]
        chosen = spread([len(one) if mean else 0 for one, mean in zip(live, means, strict=True)], COLUMNS)
        self.sizes = tuple(len(part) for part in chosen)
        self.channels = [one[part] for one, part in zip(live, chosen, strict=True)]
        self._places = _beside(self.channels, [layer.channels for layer in layers])
        self._mean = np.concatenate([layer.mean for layer in layers])[self._places]
        self._deviation = np.concatenate([layer.deviation for layer in layers])[self._places]
        places = _beside(chosen, [len(one) for one in live])
        self._levels = _levels(len(places)) if known is None else known.only(places)
        codes, values = self._levels.codes, self._levels.values.astype(np.float32)
        self._known = None if known is None else Kept(codes, values)
        layout = None if known is None else known.layout
        self.pictures = None if layout is None else Pictures(layout)
        self.key = _identity(reference, known)
        self.scale = Scale.of(
            [layer for layer, mean in zip(layers, means, strict=True) if mean],
            [size for size, mean in zip(self.sizes, means, strict=True) if mean],
            self._levels,
            train_batch,
        )

    def known(self, now: Kept) -> Kept | None:
        """The baseline's frames, with their pictures where ``now`` has them; None without a baseline."""
        if self._known is None or self.pictures is None or now.layout is None:
            return self._known
        return replace(self._known, layout=self.pictures.codes, pictures=self.pictures.known)

    def standardised(self, means: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], str | None]:
        """The columns of one frame in deviations, and the first layer with a value that is not finite.

        Raises:
            ValueError: taps that do not fit the reference.
        """
        if len(means) != len(self._layers):
            raise ValueError(f"{len(means)} taps for {len(self._layers)} layers")
        rows = [np.asarray(values, dtype=np.float64).reshape(-1) for values in means]
        for row, layer in zip(rows, self._layers, strict=True):
            if len(row) != layer.channels:
                raise ValueError(f"{layer.name}: {len(row)} taps for {layer.channels} channels")
        whole = np.concatenate(rows)
        if not np.isfinite(whole).all():
            broken = next(i for i, row in enumerate(rows) if not np.isfinite(row).all())
            return np.empty(0), self._layers[broken].name
        return (whole[self._places] - self._mean) / self._deviation, None

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Deviations to codes; what is beyond the levels becomes the last one."""
        return self._levels.code(values)

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The reverse."""
        return self._levels.decode(codes)


def _levels(columns: int) -> Baseline:
    """Levels without frames, around the population mean."""
    step = 2 * _REACH / (LEVELS - 1)
    codes = np.empty((0, columns), dtype=np.uint8)
    return Baseline(codes, np.full(columns, -_REACH), np.full(columns, step))


def spread(live: Sequence[int], most: int) -> list[NDArray[np.int64]]:
    """For each layer, which of its live channels are watched: at most ``most`` in all, evenly over layers.

    Layers with few channels leave their share to the others; of more channels than that, a seeded choice.
    """
    left, share = most, 0
    take = [0] * len(live)
    for done, index in enumerate(sorted(range(len(live)), key=lambda i: live[i])):
        share = left // (len(live) - done)
        take[index] = min(live[index], share)
        left -= take[index]
    random = np.random.default_rng(0)
    return [
        np.sort(random.choice(count, size, replace=False)).astype(np.int64)
        for count, size in zip(live, take, strict=True)
    ]


def _beside(parts: Sequence[NDArray[np.int64]], widths: Sequence[int]) -> NDArray[np.int64]:
    """Places within each layer as places in all layers side by side, which are so wide."""
    edges = np.cumsum([0, *widths[:-1]])
    return np.concatenate([part + edge for part, edge in zip(parts, edges, strict=True)])


def _identity(reference: Reference, known: Baseline | None) -> str:
    digest = hashlib.sha256()
    document = Reference(reference.layers).to_json()
    digest.update(json.dumps(document, sort_keys=True).encode())
    for part in (known, None if known is None else known.layout):
        for array in () if part is None else (part.codes, part.low, part.step):
            digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(f"32 {COLUMNS}".encode())  # 32: frames of the first version's window; its states go on
    return digest.hexdigest()
