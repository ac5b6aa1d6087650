"""The page of ``bnfold diagnose``: growth through the depth, train against eval by layer and channel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bnfold.report.html import plots
from bnfold.report.html.histograms import Series, draw_histograms
from bnfold.report.html.maps import draw_map
from bnfold.report.html.page import Page, Plot, Row, Table, file_name, name, number, render, verdict_of
from bnfold.report.style import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
Array = NDArray[np.float64]

_LEAST_GAP = 1e-3  # smaller gaps are drawn here
_BEYOND = 3.0  # the axis of gaps reaches at least so far


def diagnosis_page(document: Document) -> str:
    """The page, from the document of ``bnfold diagnose --channels`` with histograms."""
    verdict, tone = verdict_of(document["passed"], document["findings"])
    layers = document["layers"]
    compared = [layer for layer in layers if layer["gap"] is not None]
    drawn, notes = [], []
    if document["modules"]:
        drawn.append(_growth(document["modules"]))
    if compared:
        drawn += [_gaps(layers, document["margin"]), _map(compared)]
    else:
        notes.append("Train and eval mode are not compared: there are too few frames, or nothing to compare.")
    if document["histograms"]:
        drawn.append(_histograms(document["histograms"]))
    frames = plural(document["frames"], "frame")
    facts = [frames, plural(len(layers), "BatchNorm call"), f"sha256 {document['source']['sha256'][:12]}"]
    if document["deployment_frames"]:
        facts.insert(1, f"{document['deployment_frames']} from the deployment")
    return render(
        Page(
            f"Diagnosis of {file_name(document['source']['path'])}",
            facts,
            verdict,
            tone,
            "The statistics fit these frames.",
            document["findings"],
            drawn,
            [*_chain(document["breakdown"]), _table(layers)],
            notes,
        )
    )


# --- plots -------------------------------------------------------------------------------------------------


def _growth(modules: Sequence[Document]) -> Plot:
    names = [module["name"] for module in modules]
    sizes = {mode: _rms(modules, mode) for mode in ("train", "eval")}
    lost = {mode: _not_finite(modules, mode) for mode in ("train", "eval")}
    first = next((place for place, is_lost in enumerate(lost["eval"]) if is_lost), None)

    def paint(figure: Figure) -> None:
        axes = plots.row_axes(figure, names, "root mean square of the output")
        for mode, colour in (("train", plots.MAIN), ("eval", plots.SECOND)):
            if not np.isnan(sizes[mode]).all():
                axes.plot(
                    sizes[mode], range(len(names)), "o-", color=colour, markersize=2.5, label=f"{mode} mode"
                )
        plots.log_axis(axes)
        for mode, colour in (("train", plots.MAIN), ("eval", plots.SECOND)):
            at = np.flatnonzero(lost[mode])
            if len(at):
                axes.plot(
                    np.full(len(at), 0.985), at, "x", color=colour, markersize=4, linestyle="none",
                    transform=axes.get_yaxis_transform(), label=f"not finite in {mode} mode",
                )  # fmt: skip
        if first is not None:
            axes.axhline(first, color=plots.BAD, linewidth=0.9, linestyle="--", label="first not finite")
        plots.legend(figure, axes, columns=2)

    said = "all are finite" if first is None else f"the first that is not finite in eval mode: {names[first]}"
    svg = plots.draw(
        plots.rows_height(len(names)) + (62 if first is None else 86),
        paint,
        alt=f"Size of the activations through {plural(len(names), 'module')} in train and eval mode; {said}",
    )
    return Plot(
        "Growth through the depth",
        "A row per module, in execution order; the same frames, with batch statistics (train) and with the "
        "stored ones (eval), on a logarithmic axis. Where the lines part, the stored statistics do.",
        svg,
    )


def _rms(modules: Sequence[Document], mode: str) -> Array:
    """NaN where there is none, or where a logarithm has none."""
    found = [module[mode]["rms"] if module[mode] is not None else None for module in modules]
    return np.array([math.nan if value is None or value <= 0 else value for value in found])


def _not_finite(modules: Sequence[Document], mode: str) -> Array:
    return np.array([module[mode] is not None and module[mode]["rms"] is None for module in modules])


def _gaps(layers: Sequence[Document], margin: float) -> Plot:
    kinds = [("gap", "its own", plots.MAIN, -0.2), ("eval_gap", "in eval mode", plots.SECOND, 0.0)]
    if any(layer["shift"] for layer in layers):
        kinds.append(("shift", "deployment", plots.SOFT, 0.2))

    def paint(figure: Figure) -> None:
        axes = plots.row_axes(figure, [layer["name"] for layer in layers], "standard deviations")
        for kind, words, colour, beside in kinds:
            _gap_rows(axes, layers, kind, colour, beside)
            axes.plot([], [], "o-", color=colour, markersize=3, label=words)
        axes.axvline(margin, color=plots.INK, linewidth=0.9, linestyle="--", label=f"margin {margin:g}")
        if any(layer[kind] and layer[kind]["largest"] is None for layer in layers for kind, *_ in kinds):
            axes.plot([], [], "x", color=plots.BAD, markersize=4, label="not finite")
        axes.set_xlim(_LEAST_GAP, max(_BEYOND, 2 * axes.get_xlim()[1]))
        plots.log_axis(axes)
        plots.legend(figure, axes, columns=3)

    worst = max(
        (layer for layer in layers if layer["gap"]), key=lambda layer: layer["gap"]["largest"] or 1e99
    )
    svg = plots.draw(
        plots.rows_height(len(layers)) + 76,
        paint,
        alt=f"Gap between stored statistics and frames by layer: the largest is "
        f"{number(worst['gap']['largest'])} standard deviations in {plots.label(worst['name'])}",
    )
    return Plot(
        "Train against eval, by layer",
        "From the typical gap of a layer (the dot) to that of its worst channel. Its own: the layers before "
        "have normalised by the batch; in eval mode: what they do is in it. The dot of a sound layer is left "
        "of the margin.",
        svg,
    )


def _gap_rows(axes: Any, layers: Sequence[Document], kind: str, colour: str, beside: float) -> None:
    for place, layer in enumerate(layers):
        gap = layer[kind]
        if gap is None:
            continue
        if gap["largest"] is None or gap["typical"] is None:
            axes.plot(
                [0.985], [place], "x", color=plots.BAD, markersize=4, transform=axes.get_yaxis_transform()
            )
            continue
        low, high = max(gap["typical"], _LEAST_GAP), max(gap["largest"], _LEAST_GAP)
        axes.plot([low, high], [place + beside] * 2, color=colour, linewidth=1.2)
        axes.plot([low], [place + beside], "o", color=colour, markersize=3)


def _map(layers: Sequence[Document]) -> Plot:
    rows = []
    for layer in layers:
        mean, scale = (_channels(layer, f"gap_in_{what}") for what in ("mean", "scale"))
        rows.append(np.log10(np.maximum(np.hypot(mean, scale), 1e-4)))
    beyond = sum(int((row > np.log10(0.25)).sum()) for row in rows)
    svg = draw_map(
        [layer["name"] for layer in layers],
        rows,
        unit="log10 of the gap in standard deviations",
        colours="cividis",
        limits=(-2, 1),
        missing="not finite",
        alt=f"Map of the gap between stored statistics and frames by layer and channel: {beyond} channels "
        "are beyond 0.25 standard deviations",
    )
    return Plot(
        "The layer's own gap, by channel",
        "The gaps of mean and of log deviation together, in the deviations of the frames. A row per layer, "
        "its channels from left to right.",
        svg,
    )


def _channels(layer: Document, key: str) -> Array:
    return np.array([math.nan if value is None else value for value in layer["by_channel"][key]])


def _histograms(found: Sequence[Document]) -> Plot:
    series: list[Series] = [
        ("train mode", plots.MAIN, lambda one: one["train"]),
        ("eval mode", plots.SECOND, lambda one: one["eval"]),
    ]
    parts = []
    for one in found:
        lost = one["not_finite"]["eval"]
        total = lost + sum(one["eval"])
        note = f"eval: {lost / total:.0%} not finite" if lost else ""
        parts.append((f"{plots.label(one['name'])} [{one['channel']}]", one, note))
    svg = draw_histograms(
        parts,
        series,
        unit="output of the BatchNorm",
        alt="Histograms of the worst channels in train and eval mode: "
        + ", ".join(f"channel {one['channel']} of {plots.label(one['name'])}" for one in found),
    )
    return Plot(
        "The worst channels, train against eval",
        "What the BatchNorm gives for the same frames, normalised by the batch and by the stored statistics. "
        "The outermost bars hold what is beyond them.",
        svg,
    )


# --- tables ------------------------------------------------------------------------------------------------


def _chain(breakdown: Document | None) -> list[Table]:
    if breakdown is None:
        return []
    steps = [breakdown["origin"], *breakdown["chain"]]
    return [
        Table(
            f"Values that are not finite, on {name(breakdown['frame'])}",
            ("module", "operator", "values", "why"),
            [
                Row(
                    [
                        name(step["module"] or "forward"),
                        step["operator"],
                        f"{step['values']} of {step['of']}",
                        step["why"] or "-",
                    ],
                    "" if place else "error",
                )
                for place, step in enumerate(steps)
            ],
            right=("values",),
            note="From where the first arose to the output.",
        )
    ]


def _table(layers: Sequence[Document]) -> Table:
    shifted = any(layer["shift"] is not None for layer in layers)
    headers = ["layer", "channels", "off", "gap", "worst", "channel", "in eval", "train rms", "eval rms"]
    deployment = ["deployment"] if shifted else []
    return Table(
        "Layers",
        [*headers, *deployment],
        [
            Row(
                [*_cells(layer), *([_of(layer["shift"], "largest")] if shifted else [])],
                "error" if layer["gap"] and (layer["gap"]["off"] or layer["gap"]["largest"] is None) else "",
            )
            for layer in layers
        ],
        right=[*headers[1:], *deployment],
        note="In standard deviations: the typical gap of a layer, that of its worst channel and which it is, "
        f"the worst in eval mode{', the largest shift of the deployment' if shifted else ''}; the size (root "
        "mean square) of what the layer gives in both modes.",
    )


def _cells(layer: Document) -> list[str]:
    gap = layer["gap"]
    return [
        name(layer["name"]),
        str(layer["channels"]),
        str(len(gap["off"])) if gap else "-",
        _of(gap, "typical"),
        _of(gap, "largest"),
        str(gap["worst_channel"]) if gap else "-",
        _of(layer["eval_gap"], "largest"),
        _of(layer["output"]["train"], "rms"),
        _of(layer["output"]["eval"], "rms"),
    ]


def _of(entry: Document | None, key: str) -> str:
    return "-" if entry is None else number(entry[key])
