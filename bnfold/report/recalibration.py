"""What a recalibration came to, as text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bnfold.report.conversion import render_findings, render_verdict
from bnfold.report.style import Style, number, plural, printable, size
from bnfold.report.table import paragraph, table

Document = Mapping[str, Any]

_FEW = 12


def render_recalibration(document: Document, style: Style, *, every: bool = False) -> str:
    """The whole report of ``bnfold recalibrate``."""
    parts = [
        _head(document, style),
        _layers(document["layers"], style, every=every),
        _held_out(document["held_out"], style),
        render_findings(document["findings"], style),
        render_verdict(document["passed"], style),
        _output(document, style),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_collected(document: Document, style: Style) -> str:
    """The report of ``--collect``."""
    part = document["part"]
    head = (
        f"{plural(document['frames'], 'frame')} in {_batches(document['batches'])}: "
        f"the statistics of {plural(document['layers'], 'layer')} in {part['path']}, "
        f"{size(part['size_bytes'])}"
    )
    step = f"bnfold recalibrate {shlex.quote(document['source']['path'])} --merge PART.json... -o NEW"
    parts = [
        style.paint(style.plain(printable(head)), "bold"),
        render_findings(document["findings"], style),
        "\n".join([style.paint("Next", "bold"), f"  {style.plain(printable(step))}"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_undone(document: Document, style: Style) -> str:
    """The report of ``--undo``."""
    how, output = document["undone"], document["output"]
    lines = [
        style.paint(style.plain(printable(f"{output['path']}: the statistics of before")), "bold"),
        paragraph(
            f"{plural(len(output['changed']), 'tensor')} restored bit for bit, from before a recalibration "
            f"({how['method']}, {plural(how['frames'], 'frame')}) of {how['source']['name']}.",
            style,
            indent="  ",
        ),
    ]
    return "\n".join(lines) + "\n"


def _head(document: Document, style: Style) -> str:
    frames = plural(document["frames"], "frame")
    layers = plural(len(document["layers"]), "layer")
    if document["method"] == "debiased":
        text = f"{layers}, corrected without data"
    else:
        text = f"{layers}: {document['method']}, {frames} in {_batches(document['batches'])}"
    if document["frames_per_second"]:
        text += f", {document['frames_per_second']:,.0f} frames/s"
    if document["processes"] > 1:
        text += f", {document['processes']} processes"
    lines = [style.paint(style.plain(printable(text)), "bold")]
    if document["prior"] is not None:
        share = document["prior"] / (document["prior"] + document["frames"])
        lines.append(
            paragraph(
                f"blended with the old statistics, which count for {document['prior']:g} frames: "
                f"{share:.0%} old",
                style,
                indent="  ",
            )
        )
    return "\n".join(lines)


def _batches(count: int) -> str:
    return "1 batch" if count == 1 else f"{count:,} batches"


def _layers(layers: Sequence[Document], style: Style, *, every: bool) -> str:
    """How far each layer's statistics moved; the furthest only, where there are many."""
    shown = list(layers)
    if len(layers) > _FEW and not every:
        furthest = sorted(layers, key=_distance, reverse=True)[:_FEW]
        shown = [layer for layer in layers if layer in furthest]
    headers = ["layer", "channels", "values", "mean moved", "deviation"]
    rows = [
        [
            layer["name"] or "(the network)",
            layer["channels"],
            layer["values"] or "-",
            _moved(layer["largest_shift"], layer["shifted_channel"]),
            _moved(layer["largest_ratio"], layer["scaled_channel"]),
        ]
        for layer in shown
    ]
    if any(layer["not_finite_before"] for layer in shown):
        headers.append("not finite before")
        for row, layer in zip(rows, shown, strict=True):
            row.append(layer["not_finite_before"] or "-")
    text = table(headers, rows, style, right=("channels", "values", "not finite before"))
    note = (
        "mean moved: the furthest of all channels [its number], in standard deviations; "
        "deviation: the largest change, new over old"
    )
    if len(shown) < len(layers):
        note += f"; {len(layers) - len(shown)} layers that moved less are shown with --verbose"
    return f"{text}\n{paragraph(note, style, indent='  ')}"


def _distance(layer: Document) -> float:
    shift, ratio = layer["largest_shift"], layer["largest_ratio"]
    if shift is None or ratio is None or ratio <= 0:
        return float("inf")
    return max(float(shift), abs(math.log(ratio)))


def _moved(value: float | None, channel: int) -> str:
    return f"from NaN [{channel}]" if value is None else f"{number(value)} [{channel}]"


def _held_out(held_out: Document | None, style: Style) -> str:
    if not held_out:
        return ""
    total = held_out["frames"]
    where = "held-out frames" if held_out["source"] == "held out" else "of the same frames"
    head = f"Before and after on {total} {where}"
    rows: list[tuple[str, ...]] = [
        ("finite outputs", *(f"{held_out[at]['finite']} of {total}" for at in ("before", "after"))),
        ("gap, nats per channel", *(number(held_out[at]["gap"]) for at in ("before", "after"))),
    ]
    if held_out["after"]["right"] is not None:
        rows.append(("right answers", *(f"{held_out[at]['right']} of {total}" for at in ("before", "after"))))
    body = table(("", "before", "after"), rows, style, right=("before", "after"))
    return f"{style.paint(head, 'bold')}\n{body}"


def _output(document: Document, style: Style) -> str:
    output = document["output"]
    if output is None:
        return "Nothing was written."
    written = (
        f"{output['path']}: {size(output['size_bytes'])}, sha256 {output['sha256'][:12]}, "
        f"{plural(len(output['changed']), 'tensor')} changed"
    )
    undo = f"bnfold recalibrate {shlex.quote(output['path'])} --undo -o OLD"
    plain = [style.plain(printable(line)) for line in (written, undo)]
    lines = [plain[0], "", style.paint("To undo", "bold"), f"  {plain[1]}"]
    return "\n".join(lines)
