"""What ``bnfold run`` answers, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnfold.report.style import Style, number, plural, printable
from bnfold.report.table import paragraph, table

Document = Mapping[str, Any]

_MOST_COLUMNS = 5


def render_answers(document: Document, style: Style) -> str:
    """One row per frame and output: the best scores, or the range of an output that is no list of scores."""
    if not document["frames"]:
        return ""
    head = f"{document['artifact']} on {document['runtime']}"
    parts = [style.paint(style.plain(printable(head)), "bold")]
    answers = [(frame["frame"], answer) for frame in document["frames"] for answer in frame["outputs"]]
    scored = [(frame, answer) for frame, answer in answers if answer["top"] is not None]
    others = [(frame, answer) for frame, answer in answers if answer["top"] is None]
    if scored:
        parts.append(_scores(scored, style))
    for frame, answer in others:
        parts.append(paragraph(f"{frame}  {_range(answer)}", style, indent="  ", hanging="    "))
    return "\n".join(parts)


def _scores(answers: list[tuple[str, Document]], style: Style) -> str:
    several = len({answer["output"] for _, answer in answers}) > 1
    width = max(len(answer["top"]) for _, answer in answers)
    if width > _MOST_COLUMNS:
        return _listed(answers, several, style)
    ranks = ("best", "2nd", "3rd", "4th", "5th")[:width]
    headers = ("frame", *(("output",) if several else ()), *ranks)
    rows = []
    for frame, answer in answers:
        cells = [f"{score['label']} ({score['score']:.4g})" for score in answer["top"]]
        cells += [""] * (width - len(cells))
        rows.append((frame, *((answer["output"],) if several else ()), *cells))
    return table(headers, rows, style)


def _listed(answers: list[tuple[str, Document]], several: bool, style: Style) -> str:
    """One row per score: for a long list the columns would not fit."""
    rows = [
        (frame, answer["output"], rank, score["label"], f"{score['score']:.4g}")
        for frame, answer in answers
        for rank, score in enumerate(answer["top"], start=1)
    ]
    headers = ("frame", "output", "rank", "label", "score")
    if not several:
        return table(
            (headers[0], *headers[2:]), [(row[0], *row[2:]) for row in rows], style, right=("rank", "score")
        )
    return table(headers, rows, style, right=("rank", "score"))


def _range(answer: Document) -> str:
    shape = "x".join(map(str, answer["shape"])) or "scalar"
    text = f"{answer['output']}: {answer['dtype']} {shape}"
    if answer["min"] is not None:
        low, high = number(answer["min"]), number(answer["max"])
        text += f", {low}" if answer["min"] == answer["max"] else f", {low} to {high}"
    if answer["non_finite"]:
        text += f", {answer['non_finite']} not finite"
    return text


def render_self_test(document: Document, style: Style) -> str:
    """One row per output of the golden frame, and the verdict."""
    checks = document["self_test"]
    if checks is None:
        return ""
    passed = document["passed"]
    outputs = plural(len(checks), "output")
    head = f"Self-test of {document['artifact']} on {document['runtime']}: {outputs}"
    rows = [
        (
            check["output"],
            number(check["max_abs_error"]),
            number(check["tolerance"]),
            "passed" if check["passed"] else "FAILED",
        )
        for check in checks
    ]
    verdict = style.paint("passed", "green") if passed else style.paint("FAILED", "red")
    return "\n".join(
        [
            style.paint(style.plain(printable(head)), "bold"),
            table(("output", "max error", "tolerance", ""), rows, style, right=("max error", "tolerance")),
            verdict,
        ]
    )
