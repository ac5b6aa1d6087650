"""The page of ``bnfold audit``: every layer by channel, its gain, what is dead, and weights after folding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bnfold.report.html import plots
from bnfold.report.html.maps import draw_map
from bnfold.report.html.page import Page, Plot, Row, Table, file_name, name, number, render, verdict_of
from bnfold.report.style import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
Array = NDArray[np.float64]

_MOST_STATES = 3
_INT8 = 127.0


def audit_page(document: Document) -> str:
    """The page, from the document of ``bnfold audit --channels``."""
    verdict, tone = verdict_of(document["passed"], document["findings"])
    states = [state["name"] for state in document["states"]]
    drawn, notes = [], []
    for state in states[:_MOST_STATES]:
        of = state if len(states) > 1 else ""
        drawn += _layers([layer for layer in document["layers"] if layer["state"] == of], of)
    if len(states) > _MOST_STATES:
        notes.append(
            f"Of {len(states)} state dicts the first {_MOST_STATES} are drawn; all are in the table."
        )
    weights = document["folded_weights"]
    if weights:
        drawn.append(_weights(weights))
    else:
        notes.append("Weights after folding are shown where the network is given: --model and --input.")
    if not document["layers"]:
        notes.append("There is no BatchNorm with stored statistics to draw.")
    return render(
        Page(
            f"Audit of {file_name(document['path'])}",
            [
                *(_said(state, len(states) > 1) for state in document["states"]),
                f"sha256 {document['sha256'][:12]}",
                *(f"{key} {value:g} assumed" for key, value in document["assumed"].items()),
            ],
            verdict,
            tone,
            "Nothing in this file speaks against its population statistics.",
            document["findings"],
            drawn,
            [_table(document["layers"], len(states) > 1), *([_weight_table(weights)] if weights else [])],
            notes,
        )
    )


def _said(state: Document, several: bool) -> str:
    text = plural(state["batch_norms"], "BatchNorm")
    return f"{text} in {name(state['name'])}" if several else text


# --- plots -------------------------------------------------------------------------------------------------


def _layers(layers: Sequence[Document], state: str) -> list[Plot]:
    if not layers:
        return []
    suffix = f", in {name(state)}" if state else ""
    found = [_variances(layers, suffix), _gains(layers, suffix), _gain_range(layers, suffix)]
    dead = _dead(layers, suffix)
    return [plot for plot in [*found, dead] if plot is not None]


def _values(layer: Document, key: str) -> Array:
    """By channel; NaN for what is not finite. Shape (channels,)."""
    held = layer["by_channel"][key]
    if held is None:
        return np.full(layer["channels"], np.nan)
    return np.array([math.nan if value is None else value for value in held], dtype=np.float64)


def _variances(layers: Sequence[Document], suffix: str) -> Plot:
    rows = []
    for layer in layers:
        values = _values(layer, "variance")
        with np.errstate(divide="ignore", invalid="ignore"):
            rows.append(np.where(values > 0, np.log10(np.maximum(values, 1e-30)), np.nan))
    low, high = _ends(rows)
    svg = draw_map(
        [layer["name"] for layer in layers],
        rows,
        unit="log10 of running_var",
        colours="viridis",
        limits=(low, high),
        missing="none, zero, negative or not finite",
        alt=f"Map of running_var by layer and channel{suffix}: log10 from {low:.1f} to {high:.1f}, "
        f"{sum(int(np.isnan(row).sum()) for row in rows)} channels without a usable value",
    )
    return Plot(
        f"Running variance{suffix}",
        "A row per layer, its channels from left to right. Where a layer has more channels than columns, the "
        "one that is furthest from the rest stands for its neighbours.",
        svg,
    )


def _ends(rows: Sequence[Array]) -> tuple[float, float]:
    values = np.concatenate(rows)
    values = values[np.isfinite(values)]
    if not len(values):
        return -1.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high - low > 0.5 else (low - 0.25, high + 0.25)


def _gains(layers: Sequence[Document], suffix: str) -> Plot:
    rows, dead = [], []
    for layer in layers:
        gains = np.abs(_values(layer, "scale"))
        living = gains[gains > 0]
        middle = float(np.median(living)) if len(living) else math.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            rows.append(np.where(gains > 0, np.log10(np.maximum(gains, 1e-30) / middle), np.nan))
        dead.append(gains == 0)
    largest = max((float(np.nanmax(row)) for row in rows if np.isfinite(row).any()), default=0.0)
    svg = draw_map(
        [layer["name"] for layer in layers],
        rows,
        unit="log10 of |gain| over the layer's median",
        colours="RdBu_r",
        limits=(-1.5, 1.5),
        missing="a layer without a usable gain",
        marked=("dead: gamma is 0", dead),
        alt=f"Map of the gain by layer and channel{suffix}: the largest is {10**largest:.3g} times its "
        f"layer's median, {sum(int(flags.sum()) for flags in dead)} channels are dead",
    )
    return Plot(
        f"Gain against the layer's median{suffix}",
        "The gain is |gamma| / sqrt(running_var + eps), what the layer multiplies a channel with. Red "
        "amplifies more than its layer does, blue less; beyond 30 times the colour stays the same.",
        svg,
    )


def _gain_range(layers: Sequence[Document], suffix: str) -> Plot | None:
    usable = [layer for layer in layers if layer["gain"] is not None and layer["gain"]["max"]]
    if not usable:
        return None
    names = [layer["name"] for layer in layers]

    def paint(figure: Figure) -> None:
        axes = plots.row_axes(figure, names, "|gain|")
        for place, layer in enumerate(layers):
            if layer not in usable:
                axes.plot(
                    [0.01], [place], "x", color=plots.BAD, markersize=5, transform=axes.get_yaxis_transform()
                )
                continue
            gains = np.abs(_values(layer, "scale"))
            living = gains[gains > 0]
            axes.plot([living.min(), living.max()], [place, place], color=plots.MAIN, solid_capstyle="butt")
            axes.plot([np.median(living)], [place], "o", color=plots.INK, markersize=3)
        axes.plot([], [], color=plots.MAIN, label="smallest to largest")
        axes.plot([], [], "o", color=plots.INK, markersize=3, label="median")
        if len(usable) < len(layers):
            axes.plot([], [], "x", color=plots.BAD, markersize=5, label="no usable gain")
        plots.log_axis(axes)
        plots.legend(figure, axes)

    widest = max(usable, key=lambda layer: layer["gain"]["max"])
    svg = plots.draw(
        plots.rows_height(len(layers)) + 62,
        paint,
        alt=f"Range of the gain by layer{suffix}: the largest is {number(widest['gain']['max'])} in "
        f"{plots.label(widest['name'])}",
    )
    return Plot(
        f"Gain by layer{suffix}",
        "Living channels only, on a logarithmic axis. A channel far to the right amplifies whatever is wrong "
        "in its statistics.",
        svg,
    )


def _dead(layers: Sequence[Document], suffix: str) -> Plot | None:
    shown = [layer for layer in layers if layer["dead"]]
    if not shown:
        return None

    def paint(figure: Figure) -> None:
        axes = plots.row_axes(figure, [layer["name"] for layer in shown], "dead channels, % of the layer")
        shares = [100 * layer["dead"] / layer["channels"] for layer in shown]
        axes.barh(range(len(shown)), shares, color=plots.MAIN, height=0.6)
        axes.set_xlim(0, 100)

    worst = max(shown, key=lambda layer: layer["dead"] / layer["channels"])
    svg = plots.draw(
        plots.rows_height(len(shown)) + 44,
        paint,
        alt=f"Share of dead channels{suffix}: {plural(len(shown), 'layer')} with some, at most "
        f"{100 * worst['dead'] / worst['channels']:.0f}% in {plots.label(worst['name'])}",
    )
    return Plot(
        f"Dead channels{suffix}",
        "Channels with gamma = 0 give the same value on every frame. "
        f"{plural(len(layers) - len(shown), 'layer')} without any are left out.",
        svg,
    )


def _weights(weights: Sequence[Document]) -> Plot:
    def paint(figure: Figure) -> None:
        axes = plots.row_axes(figure, [each["layer"] for each in weights], "max|w| by output channel")
        for place, each in enumerate(weights):
            sizes = np.array(each["by_channel"], dtype=np.float64)
            some = sizes[sizes > 0]
            if not len(some):
                continue
            colour = plots.MAIN if some.max() / some.min() <= _INT8 else plots.BAD
            axes.plot([some.min(), some.max()], [place, place], color=colour, solid_capstyle="butt")
            axes.plot([np.median(some)], [place], "o", color=plots.INK, markersize=3)
        axes.plot([], [], color=plots.MAIN, label="smallest to largest")
        axes.plot([], [], "o", color=plots.INK, markersize=3, label="median")
        if any((each["channel_range"] or 0) > _INT8 for each in weights):
            axes.plot([], [], color=plots.BAD, label=f"beyond {_INT8:.0f} times")
        plots.log_axis(axes)
        plots.legend(figure, axes)

    widest = max(weights, key=lambda each: each["channel_range"] or 0.0)
    svg = plots.draw(
        plots.rows_height(len(weights)) + 62,
        paint,
        alt=f"Range of the weights after folding: at most {number(widest['channel_range'])} times between "
        f"the channels of {plots.label(widest['layer'])}",
    )
    return Plot(
        "Weights after folding",
        "The largest |w| of each output channel. int8 with one scale per layer resolves the smallest channel "
        "with 127 / range levels: with a range beyond 127 nothing is left of it.",
        svg,
    )


# --- tables ------------------------------------------------------------------------------------------------


def _table(layers: Sequence[Document], several: bool) -> Table:
    headers = ["layer", "channels", "batches", "mean", "variance", "not finite", "gain", "x median", "dead"]
    return Table(
        "Layers",
        ["state", *headers] if several else headers,
        [
            Row(
                ([name(layer["state"])] if several else []) + _cells(layer), "error" if _broken(layer) else ""
            )
            for layer in layers
        ],
        right=headers[1:],
        note="gain: the largest |gamma| / sqrt(running_var + eps); x median: over that of the layer's median "
        "channel.",
    )


def _cells(layer: Document) -> list[str]:
    gain = layer["gain"]
    ratio = gain["max"] / gain["median"] if gain and gain["median"] and gain["max"] is not None else None
    return [
        name(layer["name"]),
        str(layer["channels"]),
        "-" if layer["num_batches_tracked"] is None else str(layer["num_batches_tracked"]),
        _span(layer["mean"]),
        _span(layer["variance"]),
        str(_broken(layer)) if _broken(layer) else "-",
        "-" if gain is None else number(gain["max"]),
        "-" if ratio is None else number(ratio),
        str(layer["dead"]) if layer["dead"] else "-",
    ]


def _span(values: Document | None) -> str:
    if values is None:
        return "none"
    return "not finite" if values["min"] is None else f"{number(values['min'])} to {number(values['max'])}"


def _broken(layer: Document) -> int:
    """How many channels have a statistic that is not finite."""
    return max((layer[key]["non_finite"] for key in ("mean", "variance") if layer[key]), default=0)


def _weight_table(weights: Sequence[Document]) -> Table:
    headers = ("layer", "channels", "largest |w|", "range", "BatchNorm in it")
    return Table(
        "Weights after folding",
        headers,
        [
            Row(
                [
                    name(each["layer"]),
                    str(each["channels"]),
                    number(each["largest"]),
                    "-" if each["channel_range"] is None else number(each["channel_range"]),
                    "yes" if each["folded"] else "no",
                ]
            )
            for each in weights
        ],
        right=headers[1:4],
        note="range: the largest channel's max|w| over the smallest's.",
    )
