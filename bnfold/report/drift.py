"""What a drift check came to, as text: the verdict, then the layers, earliest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bnfold.report.conversion import render_findings
from bnfold.report.style import Style, plural
from bnfold.report.table import paragraph, table

Document = Mapping[str, Any]

_MOST = 8


def render_drift(document: Document, style: Style) -> str:
    """The whole report of ``bnfold drift``."""
    parts = [
        _head(document, style),
        render_findings(document["findings"], style),
        # the first tier decides; what the other one says is among the findings
        *(_tier(tier, style) for tier in document["tiers"][:1] if tier["judged"]),
        _images(document["images"], style),
        _verdict(document, style),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(document: Document, style: Style) -> str:
    frames, worth = document["frames"], document["effective_frames"]
    text = f"{document['artifact']} on {document['runtime']}, {plural(frames, 'frame')}"
    if worth != frames:
        text += f" worth {worth} independent ones"
    return style.paint(paragraph(text, style), "bold")


def _tier(tier: Document, style: Style) -> str:
    """The layers that drifted, or else those nearest to it."""
    drifted = [layer for layer in tier["layers"] if layer["significant"]]
    shown = drifted or sorted(tier["layers"], key=lambda layer: -layer["strength"])
    kept = shown[:_MOST]
    if not drifted:
        order = [layer["name"] for layer in tier["layers"]]
        kept = sorted(kept, key=lambda layer: order.index(layer["name"]))
    basis = (
        f"against {plural(tier['baseline_frames'], 'held-out frame')}"
        if tier["tier"]
        else "against the population statistics"
    )
    what = (
        f"{len(drifted)} of {plural(len(tier['layers']), 'layer')} drifted"
        if drifted
        else f"none of {plural(len(tier['layers']), 'layer')} drifted"
    )
    rows = [
        (
            layer["name"],
            f"{layer['effect']:.2f}",
            f"{layer['limit']:.2f}",
            ", ".join(layer["by"]),
            _channels(layer),
        )
        for layer in kept
    ]
    headers = ("layer", "shift", "limit", "seen by", "channels, by deviations")
    lines = [
        paragraph(f"Tier {tier['tier']}, {basis}: {what}", style),
        table(headers, rows, style, right=("shift", "limit")),
    ]
    if len(shown) > len(kept) and drifted:
        lines.append(f"  and {len(shown) - len(kept)} more, later")
    lines += _layout(tier.get("layout"), style)
    return "\n".join(lines)


def _layout(layout: Document | None, style: Style) -> list[str]:
    if layout is None or not layout["significant"]:
        return []
    said = ", ".join(layout["words"]) or "changed as a whole, and no part of it by itself"
    return [paragraph(f"Layout of the picture, shift {layout['effect']:.2f}: {said}", style)]


def _channels(layer: Document) -> str:
    pairs = zip(layer["channels"][:3], layer["shifts"][:3], strict=True)
    return ", ".join(f"{channel} {shift:+.1f}" for channel, shift in pairs)


def _images(changes: Sequence[Document], style: Style) -> str:
    said = [change["words"] for change in changes if change["words"]]
    return paragraph(f"The image is {', '.join(said)}.", style) if said else ""


def only_not_finite(document: Document) -> bool:
    """Whether it is values that are not finite, and no tier's verdict, that counts as drift."""
    return bool(document["drifted"]) and not any(tier["drifted"] for tier in document["tiers"][:1])


def _verdict(document: Document, style: Style) -> str:
    if only_not_finite(document):
        return style.paint("values that are not finite", "red")
    if not document["judged"]:
        return style.paint("no verdict", "yellow")
    return style.paint("drift", "red") if document["drifted"] else style.paint("no drift", "green")
