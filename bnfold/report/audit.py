"""What an audit came to, as text: what to act on first, then the numbers of the layers that stand out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bnfold.report.conversion import render_findings, render_verdict
from bnfold.report.style import Style, number, plural, printable
from bnfold.report.table import paragraph, table

Document = Mapping[str, Any]

# what is worth a line: a gain so far above the layer's median, folded weights of so wide a range
_GAIN, _RANGE = 10.0, 32.0


def render_audit(document: Document, style: Style, *, everything: bool = False) -> str:
    """The whole report of ``bnfold audit``; with ``everything`` every layer has its line."""
    parts = [
        _head(document, style),
        render_findings(document["findings"], style),
        _layers(document, style, everything=everything),
        _weights(document["folded_weights"], style, everything=everything),
        render_verdict(document["passed"], style),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(document: Document, style: Style) -> str:
    counts = [
        f"{plural(state['batch_norms'], 'BatchNorm')}"
        + (f" in {state['name']}" if len(document["states"]) > 1 else "")
        for state in document["states"]
    ]
    head = f"{document['path']}: {', '.join(counts)}"
    lines = [style.paint(style.plain(printable(head)), "bold")]
    for state in document["unusable"]:
        lines.append(paragraph(f"{state['name']} cannot be used: {state['reason']}", style, indent="  "))
    assumed = document["assumed"]
    if "momentum" in assumed:
        words = f"momentum {assumed['momentum']} and eps {assumed.get('eps', 1e-5):g}"
        text = f"{words} are assumed: a file does not say them (--momentum, --model)."
        lines.append(paragraph(text, style, indent="  "))
    elif "eps" in assumed:
        text = f"eps {assumed['eps']:g} is assumed: a file does not say it (--model)."
        lines.append(paragraph(text, style, indent="  "))
    if document["findings"] and any(state["order"] == "name" for state in document["states"]):
        text = "Layers are in the order of their names: the file keeps no other (--model)."
        lines.append(paragraph(text, style, indent="  "))
    return "\n".join(lines)


def _layers(document: Document, style: Style, *, everything: bool) -> str:
    layers = document["layers"]
    if not layers:
        return ""
    codes = _codes(document["findings"])
    shown = [
        layer for layer in layers if everything or codes[layer["state"], layer["name"]] or _stands_out(layer)
    ]
    if not shown:
        text = f"No layer stands out among {len(layers)}; --verbose shows their numbers."
        return paragraph(text, style)
    several = len(document["states"]) > 1
    columns = [
        ("layer", [_name(layer, several) for layer in shown]),
        ("channels", [layer["channels"] for layer in shown]),
        ("batches", [_or_dash(layer["num_batches_tracked"]) for layer in shown]),
        ("largest mean", [_largest(layer["mean"]) for layer in shown]),
        ("variance", [_span(layer["variance"]) for layer in shown]),
        ("gain", ["-" if layer["gain"] is None else number(layer["gain"]["max"]) for layer in shown]),
        ("x median", ["-" if (ratio := _ratio(layer)) is None else number(ratio) for layer in shown]),
        ("dead", [layer["dead"] or "-" for layer in shown]),
        ("see", [" ".join(codes[layer["state"], layer["name"]]) for layer in shown]),
    ]
    counted = {layer["num_batches_tracked"] for layer in layers}
    same = counted.pop() if len(counted) == 1 else None
    columns = [
        (title, cells)
        for title, cells in columns
        if not (title in ("dead", "see") and set(cells) <= {"", "-"}) and not (title == "batches" and same)
    ]
    left_out = len(layers) - len(shown)
    head = f"{plural(len(shown), 'layer')} of {len(layers)}" if left_out else plural(len(layers), "layer")
    head += f", each updated {same} times" if same else ""
    more = [paragraph("--verbose shows every layer.", style, indent="  ")] if left_out else []
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    right = ("channels", "batches", "largest mean", "gain", "x median", "dead")
    titles = [title for title, _ in columns]
    return "\n".join([style.paint(head, "bold"), table(titles, rows, style, right=right), *more])


def _name(layer: Document, several: bool) -> str:
    name = layer["name"] or "(the whole)"
    return f"{layer['state']}: {name}" if several else str(name)


def _or_dash(value: object) -> object:
    return "-" if value is None else value


def _largest(values: Document | None) -> str:
    """The largest |mean|."""
    if values is None or values["min"] is None:
        return "-"
    return number(max(abs(values["min"]), abs(values["max"])))


def _codes(findings: Sequence[Document]) -> Mapping[tuple[str, str], list[str]]:
    """The codes of the findings about each layer, by state dict and name; consequences are left out."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for finding in findings:
        evidence = finding["evidence"]
        if "origin" in evidence:
            continue
        names = evidence.get("layers", [evidence["layer"]] if "layer" in evidence else [])
        for state in evidence.get("states", [evidence.get("state", "")]):
            for name in names:
                codes = found[state, str(name)]
                short = str(finding["code"]).removeprefix("BNF-")
                if short not in codes:
                    codes.append(short)
    return found


def _stands_out(layer: Document) -> bool:
    ratio = _ratio(layer)
    return bool(layer["dead"]) or (ratio is not None and ratio > _GAIN)


def _ratio(layer: Document) -> float | None:
    """The largest |s| against the layer's median."""
    gain = layer["gain"]
    if gain is None or not gain["median"] or gain["max"] is None:
        return None
    return float(gain["max"] / gain["median"])


def _span(values: Document | None) -> str:
    if values is None:
        return "none"
    return "not finite" if values["min"] is None else f"{number(values['min'])} to {number(values['max'])}"


def _weights(weights: Sequence[Document], style: Style, *, everything: bool) -> str:
    """Linear layers after folding, the widest range of channels first."""
    if not weights:
        return ""

    def width(each: Document) -> float:
        return float(each["channel_range"] or 0.0)

    shown = [each for each in weights if everything or width(each) > _RANGE]
    if not shown:
        widest = max(map(width, weights))
        text = f"Folded weights: max|w| differs by up to {number(widest)} between the channels of a layer."
        return paragraph(text, style)
    rows = [
        (
            each["layer"],
            each["channels"],
            number(each["largest"]),
            "-" if each["channel_range"] is None else number(each["channel_range"]),
            "yes" if each["folded"] else "no",
        )
        for each in sorted(shown, key=width, reverse=True)
    ]
    head = style.paint("Folded weights: how max|w| differs between the channels of a layer", "bold")
    headers = ("layer", "channels", "largest", "range", "BatchNorm in it")
    right = ("channels", "largest", "range")
    text = "int8 with one scale per layer resolves the smallest channel with 127 / range levels."
    return "\n".join([head, table(headers, rows, style, right=right), paragraph(text, style, indent="  ")])
