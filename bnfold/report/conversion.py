"""What a conversion and a verification came to, as text."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from bnfold.report.agreement import render_agreement
from bnfold.report.style import Style, number, plural, printable, size
from bnfold.report.table import paragraph, table

_STATUS = ("folded", "reduced", "kept", "refused")

_UNPROVEN = "BNF-V008"

# consequences of a finding that are named in text
_FOLLOWING = 4

Document = Mapping[str, Any]


def render_conversion(document: Document, style: Style) -> str:
    """The whole report of ``bnfold convert``."""
    parts = [
        render_batch_norms(document["batch_norms"], style),
        render_pruning(document.get("pruned"), style),
        render_parity(document["parity"], style, findings=document["findings"]),
        render_agreement(document.get("agreement", ()), document.get("losses", ()), style),
        render_accuracy(document.get("accuracy"), style),
        render_findings(document["findings"], style),
        render_artifacts(document["artifacts"], style),
        render_verdict(document["passed"], style),
        next_steps(document["artifacts"], style) if document["passed"] else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_verification(document: Document, style: Style) -> str:
    """The whole report of ``bnfold verify``."""
    parts = [
        render_parity(document["parity"], style, findings=document["findings"]),
        render_agreement(document.get("agreement", ()), (), style),
        render_accuracy(document.get("accuracy"), style),
        render_findings(document["findings"], style),
        render_verdict(document["passed"], style),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_batch_norms(entries: Sequence[Document], style: Style, *, gains: bool = False) -> str:
    """Counts first, then a row per call in execution order, then why some could not be folded.

    With ``gains`` the largest |s| of each is shown as well, and a status that all have only in the counts.
    """
    if not entries:
        return "No BatchNorm in this network."
    counts = Counter(entry["status"] for entry in entries)
    tally = ", ".join(f"{counts[status]} {status}" for status in _STATUS if counts[status])
    lines = [style.paint(f"{plural(len(entries), 'BatchNorm')}: {tally}", "bold")]
    headers = ["name", "channels", "status", "rules", "into"]
    rows = [
        [e["name"], e["channels"], e["status"], ", ".join(e["rules"]) or "-", ", ".join(e["into"]) or "-"]
        for e in entries
    ]
    if gains:
        headers.insert(2, "gain")
        for row, entry in zip(rows, entries, strict=True):
            row.insert(2, "-" if entry.get("gain") is None else number(entry["gain"]))
        if len(counts) == 1:
            headers.remove("status")
            rows = [row[:3] + row[4:] for row in rows]
    lines.append(table(headers, rows, style, right=("channels", "gain")))
    for entry in entries:
        if entry.get("reason"):
            reason = f"{printable(entry['name'])} is {entry['status']}: {entry['reason']}"
            lines.append(paragraph(reason, style, indent="  ", hanging="    "))
    lines += [paragraph(text, style, indent="  ", hanging="    ") for text in _copies(entries)]
    return "\n".join(lines)


def render_pruning(pruned: Document | None, style: Style) -> str:
    """A row per layer with channels that are gone, or constant and kept."""
    if not pruned:
        return ""
    layers = pruned["layers"]
    gone = sum(len(layer["removed"]) for layer in layers)
    title = f"Pruned: {plural(gone, 'channel')}, {size(pruned['weight_bytes_saved'])} of weights"
    if not layers:
        return style.paint("Pruned: nothing, no channel is constant or unread", "bold")
    rows = [
        [
            layer["name"],
            layer["channels"],
            len(layer["removed"]),
            f"{len(layer['left'])}, read by {layer['reader']}" if layer["left"] else "-",
        ]
        for layer in layers
    ]
    headers = ("layer", "channels", "removed", "constant, kept")
    return f"{style.paint(title, 'bold')}\n{table(headers, rows, style, right=('channels', 'removed'))}"


def _copies(entries: Sequence[Document]) -> list[str]:
    """A sentence per weight that was copied because several calls read it."""
    copied: dict[str, list[tuple[str, int]]] = {}
    for entry in entries:
        for copy in entry.get("copies", ()):
            copied.setdefault(copy["weight"], []).append((entry["name"], copy["bytes"]))
    return [
        printable(
            f"{weight} is read by several calls: copied for {', '.join(name for name, _ in takers)}, "
            f"{size(sum(count for _, count in takers))} more"
        )
        for weight, takers in copied.items()
    ]


def render_parity(rows: Sequence[Document], style: Style, *, findings: Sequence[Document] = ()) -> str:
    """One row per candidate, interpreter and output: the error against the noise floor and the tolerance.

    That random inputs prove little is said here, unless one of the findings says it.
    """
    if not rows:
        return ""
    counts = {(row["frames"], row["frames_source"]) for row in rows}
    cells = [
        (
            _candidate(row),
            row["runtime"],
            row["output"],
            row["frames"],
            number(row["max_abs_error"]),
            number(row["noise_floor"]),
            number(row["tolerance"]),
            "passed" if row["passed"] else "FAILED",
        )
        for row in rows
    ]
    headers = ("candidate", "runtime", "output", "frames", "max error", "noise floor", "tolerance", "")
    if len(counts) == 1:
        # The usual case: every row is about the same frames, so they are named once, above.
        cells = [row[:3] + row[4:] for row in cells]  # type: ignore[misc]
        headers = headers[:3] + headers[4:]  # type: ignore[assignment]
    lines = [style.paint(f"Parity on {' and '.join(_frames(*c) for c in sorted(counts))}", "bold")]
    lines.append(table(headers, cells, style, right=("frames", "max error", "noise floor", "tolerance")))
    told = any(finding["code"] == _UNPROVEN for finding in findings)
    if not told and any(source == "random" for _, source in counts):
        lines.append(paragraph("Unproven on real frames: give --samples.", style, indent="  "))
    return "\n".join(lines)


def _candidate(row: Document) -> str:
    return (
        str(row["candidate"]) if row.get("role", "clean") == "clean" else f"{row['candidate']} {row['role']}"
    )


def _frames(count: int, source: str) -> str:
    return plural(count, "random input") if source == "random" else plural(count, "frame")


def render_accuracy(accuracy: Document | None, style: Style) -> str:
    """The network before, then every candidate: the metric, and how many frames are answered otherwise."""
    if not accuracy:
        return ""
    output = f" of {accuracy['output']}" if accuracy["output"] else ""
    frames = plural(accuracy["frames"], "labelled frame")
    head = f"{accuracy['metric']}{output} on {frames}"
    rows = [
        (
            score["candidate"],
            score["runtime"],
            "not finite" if score["value"] is None else f"{score['value']:.4f}",
            "-" if score["correct"] is None else f"{score['correct']} of {accuracy['frames']}",
            "-" if score["changed"] is None else score["changed"],
        )
        for score in (accuracy["before"], *accuracy["after"])
    ]
    headers = ("candidate", "runtime", "value", "right", "changed")
    right = ("value", "right", "changed")
    title = style.paint(style.plain(printable(head)), "bold")
    return f"{title}\n{table(headers, rows, style, right=right)}"


def render_findings(findings: Sequence[Document], style: Style) -> str:
    """The findings in the order they come (errors first); what follows from one stands below it."""
    if not findings:
        return ""
    lines = []
    for finding, following in _with_following(findings):
        severity = finding["severity"]
        colour = {"error": "red", "warning": "yellow"}.get(severity, "dim")
        head = style.paint(f"{severity}[{printable(finding['code'])}]", colour)  # type: ignore[arg-type]
        lines.append(f"{head} {style.plain(printable(finding['where']))}".rstrip())
        lines.append(paragraph(finding["message"], style, indent="  "))
        if following:
            names = [str(other["where"]).partition("[")[0] for other in following]
            more = f" and {len(names) - _FOLLOWING} more" if len(names) > _FOLLOWING else ""
            text = f"then   {', '.join(names[:_FOLLOWING])}{more}"
            lines.append(paragraph(text, style, indent="  ", hanging=" " * 9))
        if finding.get("remedy"):
            lines.append(paragraph(f"fix    {finding['remedy']}", style, indent="  ", hanging=" " * 9))
    return "\n".join(lines)


def _with_following(findings: Sequence[Document]) -> list[tuple[Document, list[Document]]]:
    """Each finding with the ones that name it as their origin."""
    groups: list[tuple[Document, list[Document]]] = []
    for finding in findings:
        origin = finding["evidence"].get("origin")
        group = next((g for g in reversed(groups) if g[0]["code"] == finding["code"]), None)
        if origin is not None and group is not None:
            group[1].append(finding)
        else:
            groups.append((finding, []))
    return groups


def render_artifacts(artifacts: Sequence[Document], style: Style) -> str:
    """The files that were written."""
    if not artifacts:
        return "No artifact was written."
    rows = [
        (a["path"], a["target"], a["precision"], size(a["size_bytes"]), a["sha256"][:12]) for a in artifacts
    ]
    headers = ("file", "target", "precision", "size", "sha256")
    return f"{style.paint('Artifacts', 'bold')}\n{table(headers, rows, style, right=('size',))}"


def render_verdict(passed: bool, style: Style) -> str:
    """``passed`` or ``FAILED``."""
    return style.paint("passed", "green") if passed else style.paint("FAILED", "red")


def next_steps(artifacts: Sequence[Document], style: Style) -> str:
    """Commands to copy."""
    paths = [artifact["path"] for artifact in artifacts if artifact["role"] == "clean"]
    if not paths:
        return ""
    first = shlex.quote(str(PurePath(paths[0])))
    steps = [f"bnfold run {first} FRAME", f"bnfold run {first} --self-test", f"bnfold inspect {first}"]
    return "\n".join([style.paint("Next", "bold"), *(f"  {style.plain(printable(step))}" for step in steps)])
