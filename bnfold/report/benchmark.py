"""What ``bnfold bench`` measured, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnfold.report.conversion import render_findings
from bnfold.report.style import Style, plural, printable, size
from bnfold.report.table import paragraph, table

Document = Mapping[str, Any]


def render_benchmark(document: Document, style: Style) -> str:
    """Latency first, then the start; the comparison and the findings after them."""
    sides = [document] if document["against"] is None else [document, document["against"]]
    parts = [_head(document, style)]
    if len(sides) == 2:
        parts.append(_names(sides, style))
    parts += [_latency(sides, style), _start(sides, style)]
    if document["ratio"]:
        parts.append(_ratios(document, style))
    parts.append(render_findings(document["findings"], style))
    if document["p90_max_ms"] is not None:
        passed = document["passed"]
        parts.append(style.paint("passed" if passed else "FAILED", "green" if passed else "red"))
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(document: Document, style: Style) -> str:
    alone = document["against"] is None
    name = f"{document['artifact']} on {document['runtime']}" if alone else "Two artifacts"
    text = f"{name}, {plural(document['threads'], 'thread')}, one frame at a time"
    if document["frames_source"] == "stand-in":
        text += " (made-up frames of the model's own size)"
    return style.paint(paragraph(text, style), "bold")


def _names(sides: list[Document], style: Style) -> str:
    lines = [
        f"  {letter}  {printable(side['artifact'])}  {side['runtime']}, {side['precision']}"
        for letter, side in zip("AB", sides, strict=False)
    ]
    return style.plain("\n".join(lines))


def _letters(sides: list[Document]) -> list[str]:
    return ["A", "B"] if len(sides) == 2 else [""]


def _latency(sides: list[Document], style: Style) -> str:
    rows: list[tuple[object, ...]] = []
    for name in sides[0]["latency"]:
        for letter, side in zip(_letters(sides), sides, strict=True):
            stream = side["latency"][name]
            figures = [_ms(stream[key]) for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms")]
            label = name.replace("_", " ")
            rows.append((letter, label, stream["frames"], *figures, f"{stream['frames_per_second']:.0f}"))
    headers = ("", "ms per frame", "frames", "p50", "p90", "p99", "max", "per second")
    return _by_side(headers, rows, style, right=headers[2:])


def _start(sides: list[Document], style: Style) -> str:
    rows: list[tuple[object, ...]] = []
    for letter, side in zip(_letters(sides), sides, strict=True):
        start = side["cold_start"]
        figures = [f"{_ms(start[key])} ms" for key in ("import_ms", "open_ms", "first_frame_ms")]
        peak = start["peak_memory_bytes"]
        rows.append((letter, *figures, "not told here" if peak is None else size(peak)))
    headers = ("", "a fresh process: import", "open", "first frame", "peak memory")
    return _by_side(headers, rows, style, right=headers[1:])


def _by_side(
    headers: tuple[str, ...], rows: list[tuple[object, ...]], style: Style, *, right: tuple[str, ...]
) -> str:
    """A table whose first column tells the sides apart, where there are two."""
    if not any(row[0] for row in rows):
        return table(headers[1:], [row[1:] for row in rows], style, right=right)
    return table(headers, rows, style, right=right)


def _ratios(document: Document, style: Style) -> str:
    lines = []
    for name, ratio in document["ratio"].items():
        head = f"  {name.replace('_', ' ')}, A takes {ratio['median']:.3f} times as long as B"
        if ratio["low"] is None:
            lines.append(f"{head}: too few frames to tell")
            continue
        told = ratio["low"] > 1 or ratio["high"] < 1
        verdict = ("A is faster" if ratio["median"] < 1 else "B is faster") if told else "too close to tell"
        lines.append(f"{head} ({ratio['low']:.3f} to {ratio['high']:.3f}): {verdict}")
    return style.plain("\n".join(lines))


def _ms(value: float | None) -> str:
    """Three digits; a dash where too few frames were timed."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
