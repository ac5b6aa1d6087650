"""A map of layers by channel: a row per layer, its channels from left to right over the whole width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bnfold.report.html import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

COLUMNS = 256
_KEY = 5.0  # points that the colours below the map are high
_MISSING, _MARKED = "#d0342c", "#111111"


def stretched(values: Array, columns: int = COLUMNS) -> Array:
    """One row of a map: each channel as wide as it comes to, shape (columns,).

    Where channels share a column the one that is furthest from the row's median stands for them, and one that
    is NaN before all others: what is looked for is never averaged away.
    """
    count = len(values)
    if not count:
        return np.full(columns, np.nan)
    if count <= columns:
        return np.asarray(values[np.arange(columns) * count // columns])
    finite = values[np.isfinite(values)]
    middle = float(np.median(finite)) if len(finite) else 0.0
    weight = np.where(np.isnan(values), np.inf, np.abs(values - middle))
    edges = np.arange(columns + 1) * count // columns
    chosen = [start + int(np.argmax(weight[start:end])) for start, end in pairwise(edges)]
    return np.asarray(values[chosen])


def draw_map(
    names: Sequence[str],
    rows: Sequence[Array],
    *,
    unit: str,
    colours: str,
    limits: tuple[float, float],
    alt: str,
    missing: str,
    marked: tuple[str, Sequence[NDArray[np.bool_]]] | None = None,
) -> str:
    """The map as SVG.

    Args:
        names: of the layers, downwards.
        rows: per layer a value per channel; NaN where there is none.
        unit: of the colours.
        colours: matplotlib's name of a colour map.
        limits: what the ends of the colour map stand for; beyond them the ends are kept.
        alt: what it shows, in words.
        missing: what NaN means.
        marked: what black means, and by layer which channels are.
    """
    image = np.stack([stretched(row) for row in rows])
    red, black = np.isnan(image), np.zeros(image.shape, dtype=bool)
    if marked is not None:
        black = np.stack([stretched(flags.astype(np.float64)) for flags in marked[1]]) == 1
        red &= ~black

    has_key = bool((~red & ~black).any())

    def paint(figure: Figure) -> None:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize, to_rgba

        height = plots.rows_height(len(rows))
        parts = figure.subplots(1 + has_key, 1, squeeze=False, height_ratios=[height, _KEY][: 1 + has_key])
        axes = parts[0, 0]
        norm = Normalize(*limits, clip=True)
        painted = colormaps[colours](norm(np.nan_to_num(image)))
        painted[red], painted[black] = to_rgba(_MISSING), to_rgba(_MARKED)
        axes.imshow(painted, aspect="auto", extent=(0, 100, len(rows) - 0.5, -0.5))
        plots.name_rows(axes, names)
        axes.set_xticks([0, 50, 100], ["first", "channels", "last"])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if has_key:
            bar = figure.colorbar(ScalarMappable(norm, colours), cax=parts[1, 0], orientation="horizontal")
            bar.set_label(unit)
            bar.outline.set_visible(False)
            bar.ax.tick_params(length=2)
        said = [(missing, _MISSING, red)]
        if marked is not None:
            said.append((marked[0], _MARKED, black))
        for text, colour, where in said:
            if where.any():
                axes.plot([], [], "s", color=colour, markersize=5, label=text)
        plots.legend(figure, axes)

    return plots.draw(plots.rows_height(len(rows)) + 46 + 32 * has_key, paint, alt=alt)
