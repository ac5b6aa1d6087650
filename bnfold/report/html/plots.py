"""What all drawings have in common: one width that a phone can show, few colours, and SVG out of matplotlib.

A figure is 360 points wide, which a phone shows at its own size and a desktop somewhat larger. Layers go
downwards in execution order, one row each, so that long names and many layers fit.

Colours are stand-ins that become variables of the page's style: the same drawing is dark on light or light on
dark. Figures are made without pyplot, so nothing keeps them once they are drawn.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bnfold.wording import clip_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID, MAIN, SECOND, BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {INK: "ink", SOFT: "soft", GRID: "grid", MAIN: "main", SECOND: "second", BAD: "bad"}

_UNSAID = ("Date", "Creator", "Format", "Type")  # what matplotlib would say of a file

WIDTH = 360.0
_INCH = 72.0
_FONT = 9.0
_ROW, _MOST_ROWS = 11.5, 64  # points per row; more rows than these share the height of so many
_LABEL = 24  # characters of a name beside its row

_STYLE: Any = {
    "font.size": _FONT,
    "axes.labelsize": _FONT,
    "axes.titlesize": _FONT,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.unicode_minus": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "image.interpolation": "nearest",
    "savefig.dpi": 200,
}


def draw(height: float, paint: Callable[[Figure], None], *, alt: str) -> str:
    """Draws a figure and returns it as SVG for a page.

    Args:
        height: in points.
        paint: puts axes into the figure.
        alt: what the drawing shows, for those who cannot see it.

    Returns:
        One ``<svg>`` element with ``role="img"`` that holds everything it needs.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    target = io.StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in a script that matplotlib's font lacks is measured roughly; the browser has the letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # ids are digests of this and of what they name, or of its number: they differ between drawings
        matplotlib.rcParams["svg.hashsalt"] = f"bnfold {alt}"
        figure = Figure(figsize=(WIDTH / _INCH, height / _INCH), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        paint(figure)
        canvas.print_svg(target, metadata=dict.fromkeys(_UNSAID))  # type: ignore[no-untyped-call]
    return for_page(target.getvalue(), alt)


def for_page(svg: str, alt: str) -> str:
    """matplotlib's file as an element of a page: without prologue, comments and ids that nothing reads."""
    from markupsafe import Markup, escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font: (?:\w+ )*([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r'style="[^"]*"', lambda style: _coloured(style[0]), body)
    head, rest = body.split(">", 1)
    found = re.search(r'viewBox="[^"]*"', head)
    assert found is not None
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(f'<svg {namespaces} {found[0]} role="img" aria-label="{escape(alt)}">{rest.rstrip()}')


def _coloured(style: str) -> str:
    for stand_in, variable in _VARIABLES.items():
        style = style.replace(stand_in, f"var(--{variable})")
    return style


def rows_height(count: int) -> float:
    """Points that so many rows take."""
    return _ROW * min(max(count, 1), _MOST_ROWS)


def label(text: object) -> str:
    """A name beside its row: a long one keeps its end."""
    return clip_path(text, _LABEL) if str(text) else "(the whole)"


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows from 0 downwards, each with its name; of very many rows every second or third is named."""
    count = len(names)
    step = math.ceil(count / _MOST_ROWS)
    axes.set_ylim(count - 0.5, -0.5)
    at = range(0, count, step)
    axes.set_yticks(list(at), [label(names[place]) for place in at])
    axes.tick_params(axis="y", length=0)


def row_axes(figure: Figure, names: Sequence[str], unit: str) -> Axes:
    """Axes with a row per name, and vertical grid lines for ``unit``."""
    axes = figure.subplots()
    name_rows(axes, names)
    axes.set_xlabel(unit)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    return axes


def log_axis(axes: Axes, *, least_decades: float = 1.0) -> None:
    """A logarithmic x axis with plain numbers at whole decades, or at 1, 2 and 5 where there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    if decades < least_decades:
        middle, half = math.sqrt(low * high), 10 ** (least_decades / 2)
        axes.set_xlim(middle / half, middle * half)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0), numticks=7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Above the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.4)
