"""The page of ``bnfold drift``: layers by effect, what the worst channels saw, frames, and their course."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.drift import Evidence
from bnfold.report.drift import only_not_finite
from bnfold.report.html import plots
from bnfold.report.html.channels import channel_plot, statistics_plot
from bnfold.report.html.frames import examples
from bnfold.report.html.page import Page, Plot, Row, Table, Tone, file_name, name, number, render
from bnfold.report.html.timeline import timeline
from bnfold.report.style import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Document = Mapping[str, Any]


def drift_page(document: Document, evidence: Evidence, names: Sequence[str]) -> str:
    """The page.

    Args:
        document: of ``bnfold drift --format json``.
        evidence: what `bnfold.drift.check` kept.
        names: of all frames that were given, in their order.
    """
    judged = [tier for tier in document["tiers"] if tier["judged"]]
    drawn: list[Plot] = []
    notes = []
    if judged:
        channels = channel_plot(judged[0], evidence)
        drawn += [_layers(judged), *([channels] if channels else [])]
    else:
        notes.append(f"No layer is drawn: {document['tiers'][0]['reason']}.")
    if len(evidence.tested):
        shown = examples(evidence, names)
        if shown is None:
            notes.append("The first input is no image of 1 or 3 channels, so no frames are shown.")
        else:
            drawn.append(shown)
        if evidence.images:
            drawn.append(statistics_plot(evidence, document["images"]))
        drawn.append(timeline(evidence, document["block"]))
    verdict, tone = _verdict(document)
    said = next((f["message"] for f in document["findings"] if f["code"] in ("BNF-D006", "BNF-D001")), "")
    frames = plural(document["frames"], "frame")
    if document["effective_frames"] != document["frames"]:
        frames += f" worth {document['effective_frames']} independent ones"
    return render(
        Page(
            f"Drift check with {file_name(document['artifact'])}",
            [frames, document["runtime"], f"training batch {document['train_batch']}"],
            verdict,
            tone,
            said or "Nothing is to be acted on.",
            document["findings"],
            drawn,
            [_table(judged)] if judged else [],
            notes,
        )
    )


def _verdict(document: Document) -> tuple[str, Tone]:
    if only_not_finite(document):
        return "values that are not finite", "error"
    if document["drifted"]:
        return "drift", "error"
    if not document["judged"]:
        return "no verdict", "warning"
    return "no drift", "good"


def _basis(tier: Document) -> str:
    if tier["tier"]:
        return f"tier 1: {tier['frames']} frames against {tier['baseline_frames']} held-out ones"
    return f"tier 0: {tier['frames']} frames against the population statistics"


def _layers(tiers: Sequence[Document]) -> Plot:
    """Of the tier that decides; another one as rings."""
    tier = tiers[0]
    layers = tier["layers"]

    def paint(figure: Figure) -> None:
        axes = plots.row_axes(figure, [layer["name"] for layer in layers], "shift, in deviations of training")
        rows = np.arange(len(layers))
        effects = np.array([layer["effect"] for layer in layers])
        drifted = np.array([layer["significant"] for layer in layers])
        for where, colour, words in ((drifted, plots.BAD, "drifted"), (~drifted, plots.MAIN, "not drifted")):
            if where.any():
                axes.barh(rows[where], effects[where], height=0.6, color=colour, label=words)
        for other in tiers[1:]:
            axes.plot(
                _effects([other]), rows, "o", markersize=4, markerfacecolor="none", markeredgewidth=1,
                color=plots.SECOND, label=f"tier {other['tier']}",
            )  # fmt: skip
        limits = [layer["limit"] for layer in layers]
        axes.vlines(limits, rows - 0.45, rows + 0.45, color=plots.INK, linewidth=1.4, label="margin")
        axes.set_xlim(0, max(0.2, *(1.08 * value for value in [*effects, *limits, *_effects(tiers[1:])])))
        plots.legend(figure, axes, columns=4)

    drifted = [layer for layer in layers if layer["significant"]]
    largest = max(layers, key=lambda layer: layer["effect"])
    svg = plots.draw(
        plots.rows_height(len(layers)) + 62,
        paint,
        alt=f"Effect by layer, {_basis(tier)}: {len(drifted)} of {plural(len(layers), 'layer')} drifted, the "
        f"largest effect is {largest['effect']:.2f} in {plots.label(largest['name'])}",
    )
    return Plot(
        "Layers by effect",
        f"{_basis(tier)[0].upper()}{_basis(tier)[1:]}. The root mean square, over a layer's channels, of how "
        "far their means moved beyond chance. A layer can drift below the margin by single channels or by "
        "spread; the earliest is to blame, what follows may be its consequence.",
        svg,
    )


def _effects(tiers: Sequence[Document]) -> list[float]:
    return [layer["effect"] for tier in tiers for layer in tier["layers"]]


def _table(tiers: Sequence[Document]) -> Table:
    tier = tiers[0]
    headers = ["layer", "shift", "margin", "drifted", "seen by", "could be unseen"]
    right = ["shift", "margin", "could be unseen"]
    if tier["tier"]:
        headers.append("p")
        right.append("p")
    others = [f"tier {other['tier']}" for other in tiers[1:]]
    rows = []
    for place, layer in enumerate(tier["layers"]):
        cells = [
            name(layer["name"]),
            f"{layer['effect']:.3f}",
            f"{layer['limit']:.3f}",
            "yes" if layer["significant"] else "no",
            ", ".join(layer["by"]) or "-",
            "any" if layer["detectable"] is None else number(layer["detectable"]),
        ]
        if tier["tier"]:
            cells.append(f"{layer['p']:.3g}")
        cells += [f"{other['layers'][place]['effect']:.3f}" for other in tiers[1:]]
        cells.append(_channels(layer))
        rows.append(Row(cells, "error" if layer["significant"] else ""))
    return Table(
        "Layers",
        [*headers, *others, "channels, by deviations"],
        rows,
        right=[*right, *others],
        note="could be unseen: a shift of this size would have been seen with probability 0.9.",
    )


def _channels(layer: Document) -> str:
    pairs = zip(layer["channels"][:6], layer["shifts"][:6], strict=True)
    return ", ".join(f"{channel} {shift:+.1f}" for channel, shift in pairs) or "-"
