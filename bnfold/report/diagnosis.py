"""What a diagnosis came to, as text: the verdict, what to act on first, the chain, then the layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnfold.report.conversion import render_findings, render_verdict
from bnfold.report.style import Style, number, plural, printable
from bnfold.report.table import paragraph, table

Document = Mapping[str, Any]

_MOST = 12
# gaps that are worth a line, in standard deviations
_GAP = 0.1


def render_diagnosis(document: Document, style: Style, *, everything: bool = False) -> str:
    """The whole report of ``bnfold diagnose``; with ``everything`` every layer has its line."""
    parts = [
        _head(document, style),
        render_findings(document["findings"], style),
        _chain(document["breakdown"], style),
        _layers(document, style, everything=everything),
        render_verdict(document["passed"], style),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(document: Document, style: Style) -> str:
    frames = plural(document["frames"], "frame")
    if document["deployment_frames"]:
        frames += f", {document['deployment_frames']} from the deployment"
    where = document.get("source", {}).get("path", "")
    head = f"{where}: {frames}" if where else frames
    lines = [style.paint(style.plain(printable(head)), "bold")]
    errors = [finding for finding in document["findings"] if finding["severity"] == "error"]
    if errors:
        first = errors[0]
        text = f"Act first on {first['code']} at {first['where']}."
        lines.append(paragraph(text, style, indent="  "))
    elif any(layer["gap"] is not None for layer in document["layers"]):
        lines.append(paragraph("The statistics fit these frames.", style, indent="  "))
    return "\n".join(lines)


def _chain(breakdown: Document | None, style: Style) -> str:
    """Where a value stopped being finite, and what it went through."""
    if breakdown is None:
        return ""
    steps = [breakdown["origin"], *breakdown["chain"]]
    shown = steps if len(steps) <= _MOST else [*steps[: _MOST - 1], steps[-1]]
    rows = [
        (
            step["module"] or "forward",
            step["operator"],
            f"{step['values']} of {step['of']}",
            step["why"],
        )
        for step in shown
    ]
    head = f"Values that are not finite, on {breakdown['frame']}"
    left = len(steps) - len(shown)
    more = [paragraph(f"{_steps(left)} left out.", style, indent="  ")] if left else []
    title = style.paint(style.plain(printable(head)), "bold")
    return "\n".join(
        [title, table(("module", "operator", "values", "why"), rows, style, right=("values",)), *more]
    )


def _steps(count: int) -> str:
    return "1 step in between is" if count == 1 else f"{count} steps in between are"


def _layers(document: Document, style: Style, *, everything: bool) -> str:
    """A row per BatchNorm call: gaps in standard deviations, and how large the output is in both modes."""
    layers = document["layers"]
    if not layers:
        return ""
    shown = [layer for layer in layers if everything or _tells(layer)]
    if not shown:
        return paragraph(
            f"No layer stands out among {len(layers)}: gaps are below {_GAP} standard deviations; --verbose "
            "shows them.",
            style,
        )
    left = 0
    if not everything and len(shown) > _MOST:
        left = len(shown) - _MOST
        shown = shown[:_MOST]
    shifted = any(layer["shift"] is not None for layer in layers)
    headers = ["layer", "channels", "off", "gap", "worst", "in eval", "train rms", "eval rms"]
    if shifted:
        headers.insert(6, "shift")
    rows = []
    for layer in shown:
        row = [
            layer["name"] or "(the whole)",
            layer["channels"],
            len(layer["gap"]["off"]) if layer["gap"] else "-",
            _of(layer["gap"], "typical"),
            _of(layer["gap"], "largest"),
            _of(layer["eval_gap"], "largest"),
            _rms(layer["output"]["train"]),
            _rms(layer["output"]["eval"]),
        ]
        if shifted:
            row.insert(6, _of(layer["shift"], "largest"))
        rows.append(row)
    counted = f"{len(layers)}" if len(shown) == len(layers) else f"{len(shown)} of {len(layers)}"
    head = style.paint(f"Train against eval, {counted} BatchNorm calls, in standard deviations", "bold")
    notes = []
    if left or len(shown) < len(layers):
        notes.append(paragraph("--verbose shows every layer.", style, indent="  "))
    return "\n".join([head, table(headers, rows, style, right=tuple(headers[1:])), *notes])


def _tells(layer: Document) -> bool:
    """Whether a row says something: a gap, a shift, a growth."""
    gaps = [layer[kind] for kind in ("gap", "eval_gap", "shift") if layer[kind] is not None]
    if any(gap["off"] or (gap["at_least"] or 0.0) > _GAP for gap in gaps) or not gaps:
        return True
    sizes = layer["output"]
    evaluated, trained = sizes["eval"], sizes["train"]
    if evaluated["rms"] is None:
        return True
    return trained is not None and trained["rms"] is not None and evaluated["rms"] > 2 * trained["rms"]


def _of(gap: Document | None, key: str) -> str:
    return "-" if gap is None else _number(gap[key])


def _rms(size: Document | None) -> str:
    return "-" if size is None else _number(size["rms"])


def _number(value: float | None) -> str:
    return "nan" if value is None else number(value)
