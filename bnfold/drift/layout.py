"""Where things stand in a picture: what the mean of a channel over its positions cannot tell.

A camera that was turned, or drops on its lens, change where things are and hardly what channels are on
average. So the picture itself, as the network is given it, is described cell by cell on a 4 x 4 grid:

- *brightness*: the mean of the grey image;
- *edges across*, *edges down*: the root mean square of its horizontal and vertical central differences;
- *slant*: the mean product of the two over the mean of their squares, between -1/2 and 1/2. These three are
  a cell's structure tensor (Foerstner and Guelch, 1987): how strong its edges are, and how they run;
- *fineness*: the root of the mean square Laplacian over that mean: how small its details are.

That is 80 numbers a frame, whatever its size. To tier 1 they are one more layer, within the same family-wise
error (`bnfold.drift.tier1`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.images import as_images

Array = NDArray[np.float64]

CELLS = 4
QUANTITIES = ("brightness", "edges across", "edges down", "slant", "fineness")
COLUMNS = CELLS * CELLS * len(QUANTITIES)
"""Numbers for each picture of a frame: quantity by quantity, each from the upper left, row by row."""
_LEAST = 2 * CELLS + 2  # pixels on a side: two by two differences in each cell
_FINE = 64  # pixels on the shorter side that are enough: of twice as many every second is taken
_AT_ONCE = 32  # frames, so that no large copy of all of them is made
_WORDS: dict[str, tuple[str, str]] = {
    "brightness": ("brighter", "darker"),
    "edges": ("more detail", "less detail"),
    "fineness": ("sharper", "blurred"),
    "slant": ("edges lean another way", "edges lean another way"),
}


def layout_of(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32] | None:
    """Shape (frames, 80 a picture), the pictures by name; None where no input is one, or one overflows.

    Args:
        inputs: model inputs by name, first axis: frames. A picture has 1 or 3 channels, as
            `bnfold.drift.images.as_images` tells them, and at least 10 x 10 pixels.
    """
    parts = [part for _, array in sorted(inputs.items()) if (part := _of_input(array)) is not None]
    found = np.concatenate(parts, axis=1) if parts else None
    return found if found is not None and np.isfinite(found).all() else None


def scale_of(layout: NDArray[Any]) -> tuple[Array, Array]:
    """Center and deviation of each number between held-out frames, shape (columns,) each.

    What never varied among them is measured by the least that does.
    """
    center, deviation = layout.mean(axis=0), layout.std(axis=0)
    varied = deviation > 1e-6 * (np.abs(center) + deviation.max(initial=0.0))
    least = float(deviation[varied].min(initial=np.inf))
    return center, np.where(varied, deviation, least if math.isfinite(least) else 1.0)


def joined(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    """The layouts of some frames after those of others; None where any has none, or there are no frames."""
    made = [part for part in parts if part is not None]
    return np.concatenate(made) if made and len(made) == len(parts) else None


def _of_input(array: NDArray[Any]) -> NDArray[np.float32] | None:
    return joined([_numbers(array[at : at + _AT_ONCE]) for at in range(0, max(len(array), 1), _AT_ONCE)])


def _numbers(array: NDArray[Any]) -> NDArray[np.float32] | None:
    images = as_images(array[:0]) if array.dtype.kind in "fiu" else None
    if images is None or min(images.shape[1:3]) < _LEAST:
        return None
    step = max(1, min(images.shape[1:3]) // _FINE)
    thin = array[:, :, ::step, ::step] if array.shape[1] in (1, 3) else array[:, ::step, ::step]
    images = as_images(thin)
    assert images is not None
    grey = sum(images[..., colour] for colour in range(images.shape[-1])) / images.shape[-1]
    across = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    down = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    inner = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, 1:-1, 2:] + grey[:, 1:-1, :-2] + grey[:, 2:, 1:-1] + grey[:, :-2, 1:-1] - 4 * inner
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told from the result
        squares, other = _cells(across * across), _cells(down * down)
        energy = squares + other
        flat = energy <= 1e-12 * energy.max(axis=(1, 2), keepdims=True)
        share = np.where(flat, 0.0, 1 / np.where(flat, 1.0, energy))
        slant, fineness = share * _cells(across * down), share * _cells(laplacian * laplacian)
        made = (_cells(grey), np.sqrt(squares), np.sqrt(other), slant, np.sqrt(fineness))
        values = np.stack(made, axis=1)
        return values.reshape(len(grey), COLUMNS).astype(np.float32)


def _cells(values: Array) -> Array:
    """Means over the cells of a grid: (frames, height, width) to (frames, 4, 4)."""
    edges = [np.linspace(0, size, CELLS + 1).round().astype(int) for size in values.shape[1:]]
    sums = np.add.reduceat(values, edges[0][:-1], axis=1)
    sums = np.add.reduceat(sums, edges[1][:-1], axis=2)
    return np.asarray(sums / (np.diff(edges[0])[:, None] * np.diff(edges[1])))


def words(columns: Sequence[int], shifts: Sequence[float]) -> list[str]:
    """What changed, as ``darker in the upper left``, and where.

    Args:
        columns: those of `layout_of` that stand out.
        shifts: how far each has moved; only the sign counts.
    """
    cells: dict[str, set[int]] = {word: set() for pair in _WORDS.values() for word in pair}
    for column, shift in zip(columns, shifts, strict=True):
        quantity, cell = divmod(column % COLUMNS, CELLS * CELLS)
        up, down = _WORDS[QUANTITIES[quantity].partition(" ")[0]]
        cells[up if shift > 0 else down].add(cell)
    return [f"{word} {_region(where)}" for word, where in cells.items() if where]


def _region(cells: set[int]) -> str:
    """Where these cells lie in the picture."""
    if len(cells) > CELLS * CELLS * 2 // 3:
        return "almost everywhere"
    rows, columns = (np.array([divmod(cell, CELLS)[axis] for cell in cells]) for axis in (0, 1))
    middle = (CELLS - 1) / 2
    if (np.abs(rows - middle) < 1).all() and (np.abs(columns - middle) < 1).all():
        return "in the middle"
    down, right = float(rows.mean()) - middle, float(columns.mean()) - middle
    vertical = "" if abs(down) < 0.5 else ("lower" if down > 0 else "upper")
    horizontal = "" if abs(right) < 0.5 else ("right" if right > 0 else "left")
    if vertical and horizontal:
        return f"in the {vertical} {horizontal}"
    if vertical:
        return f"in the {vertical} part"
    return f"on the {horizontal}" if horizontal else "in places"
