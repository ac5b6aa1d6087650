"""What a watched stream came to, as text: the summary beside the alarms, which were told when they came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnfold.report.style import Style, plural
from bnfold.report.table import paragraph

Document = Mapping[str, Any]

_KINDS = (
    ("bad_inputs", "with values that are not finite"),
    ("bad_outputs", "that gave values that are not finite"),
    ("unusable", "that could not be used"),
)


def render_monitoring(document: Document, style: Style) -> str:
    """The summary of ``bnfold monitor``."""
    counts, before = document["counts"], document["counts_before"]
    head = f"{document['artifact']} on {document['runtime']}, {plural(document['frames'], 'frame')}"
    if document["resumed"]:
        head += f" after {before['frames']:,} of earlier runs"
    lines = [style.paint(paragraph(head, style), "bold")]
    kept = f"{counts['kept']:,} kept" + (
        f", one in {document['stride']:,} distinct ones" if document["stride"] > 1 else ""
    )
    against = "held-out frames" if document["tier"] else "the population statistics"
    looks = plural(counts["looks"], "comparison")
    lines.append(
        paragraph(f"{kept}; {looks} with {against} (tier {document['tier']})", style, indent="  ")
    )
    lines += [
        paragraph(f"{plural(counts[kind] - before[kind], 'frame')} {words}", style, indent="  ")
        for kind, words in _KINDS
        if counts[kind] > before[kind]
    ]
    lines += [
        paragraph(f"{finding['code']}: {finding['message']}", style, indent="  ")
        for finding in document["findings"]
        if finding["severity"] != "error"
    ]
    if document["state"] is not None:
        lines.append(paragraph(f"state kept in {document['state']}", style, indent="  "))
    lines.append(_verdict(document, style))
    return "\n".join(lines) + "\n"


def _verdict(document: Document, style: Style) -> str:
    stopped = "interrupted; " if document["interrupted"] else ""
    if document["drifted"]:
        known = document["counts"]["alarms"] == document["counts_before"]["alarms"]
        text = f"drift at {document['where']}" + (", found in an earlier run (--reset)" if known else "")
        return style.paint(paragraph(stopped + text, style), "red")
    if document["alarms"]:
        drift = "no drift" if document["judged"] else "no verdict"
        return style.paint(f"{stopped}{plural(document['alarms'], 'alarm')}, {drift}", "red")
    if not document["judged"]:
        return style.paint(f"{stopped}no verdict: too few frames", "yellow")
    return style.paint(f"{stopped}no drift", "green")
