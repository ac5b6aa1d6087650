"""Small histograms beside each other, two or three series in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bnfold.report.html import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
Series = tuple[str, str, Callable[[Document], Sequence[float]]]

_ACROSS = 2
_HEIGHT = 82.0  # points of one row
_UNEVEN = 3.0  # bins that differ so much in width are not equal steps of the axis


def draw_histograms(
    parts: Sequence[tuple[str, Document, str]],
    series: Sequence[Series],
    *,
    unit: str,
    alt: str,
    each: str = "values",
) -> str:
    """The histograms as SVG.

    Args:
        parts: of each histogram its title, a document with ``edges``, and a note that is written into it.
        series: of each series its name, its colour, and how its counts are found in a document. The first is
            filled, the others are lines.
        unit: of the values.
        alt: what is shown, in words.
        each: what is counted.
    """
    down = math.ceil(len(parts) / _ACROSS)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(down, _ACROSS, squeeze=False)
        for axes, part in zip(grid.flat, parts, strict=False):
            _one(axes, part, series)
        for axes in grid.flat[len(parts) :]:
            axes.set_visible(False)
        figure.supxlabel(unit, fontsize=9)
        figure.supylabel(f"share of the {each}", fontsize=9)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, handlelength=1.4)

    return plots.draw(_HEIGHT * down + 44, paint, alt=alt)


def _one(axes: Axes, part: tuple[str, Document, str], series: Sequence[Series]) -> None:
    title, document, note = part
    edges = np.array(document["edges"])
    for number, (words, colour, counts_of) in enumerate(series):
        counts = np.array(counts_of(document), dtype=np.float64)
        shares = counts / max(counts.sum(), 1)
        if number == 0:
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.45, linewidth=0, label=words)
        else:
            axes.stairs(shares, edges, color=colour, linewidth=1.3, label=words)
    axes.set_title(title, fontsize=8, loc="left")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, 1.4 * top if note else top)
    _ticks(axes, edges)
    if note:
        axes.text(
            0.98, 0.94, note, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=plots.BAD
        )


def _ticks(axes: Axes, edges: NDArray[np.float64]) -> None:
    """Three or four plain numbers; a long tail is drawn in equal steps of asinh, as its bins are."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    widths = np.diff(edges)
    axes.tick_params(axis="x", labelsize=7.5)
    if widths.max() > _UNEVEN * widths.min():
        axes.set_xscale("asinh", linear_width=float(widths.min()) * 4)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xticks(sorted({float(f"{value:.1g}") for value in (edges[0], 0.0, edges[-1])}))
        axes.minorticks_off()
    else:
        axes.set_xlim(edges[0], edges[-1])
        axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
