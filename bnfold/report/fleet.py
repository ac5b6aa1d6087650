"""What the states of many devices came to, as text: the findings, then the devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnfold.report.conversion import render_findings
from bnfold.report.style import Style, plural
from bnfold.report.table import paragraph, table

Document = Mapping[str, Any]

_MOST = 20


def render_fleet(document: Document, style: Style) -> str:
    """The whole report of ``bnfold drift --merge``."""
    parts = [
        _head(document, style),
        render_findings(document["findings"], style),
        _devices(document, style),
        _layers(document, style),
        _verdict(document, style),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(document: Document, style: Style) -> str:
    counts = document["counts"]
    frames = f"{plural(counts['frames'], 'frame')}, {counts['kept']:,} kept"
    text = f"{plural(counts['devices'], 'device')}: {frames}"
    return style.paint(paragraph(text, style), "bold")


def _devices(document: Document, style: Style) -> str:
    """Those that drifted first."""
    devices = sorted(document["devices"], key=lambda device: not device["drifted"])
    rows = [
        (
            device["name"],
            f"{device['counts']['frames']:,}",
            f"{device['counts']['kept']:,}",
            f"{device['counts']['alarms']:,}",
            _largest(device),
            "drift" if device["drifted"] else "no drift" if device["judged"] else "no verdict",
        )
        for device in devices[:_MOST]
    ]
    headers = ("device", "frames", "kept", "alarms", "largest shift", "")
    lines = [table(headers, rows, style, right=("frames", "kept", "alarms"))]
    if len(devices) > _MOST:
        lines.append(f"  and {len(devices) - _MOST} more, none of which comes before these")
    return "\n".join(lines)


def _largest(device: Document) -> str:
    if device["counts"]["kept"] < 2:
        return ""
    layer = max(device["layers"], key=lambda layer: layer["effect"])
    return f"{layer['effect']:.2f} in {layer['name']}"


def _layers(document: Document, style: Style) -> str:
    """Of all devices together, where they differ as one."""
    if not document["together"]:
        return ""
    rows = [
        (layer["name"], f"{layer['effect']:.2f}", "drift" if layer["significant"] else "")
        for layer in document["layers"]
    ]
    kept = [row for row in rows if row[2]][:_MOST]
    return table(("layer", "shift", ""), kept, style, right=("shift",))


def _verdict(document: Document, style: Style) -> str:
    if not document["judged"]:
        return style.paint("no verdict", "yellow")
    return style.paint("drift", "red") if document["drifted"] else style.paint("no drift", "green")
