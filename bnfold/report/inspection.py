"""What a file says of itself, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

from bnfold.normalisation import describe
from bnfold.report.agreement import render_agreement
from bnfold.report.conversion import render_batch_norms, render_findings, render_parity
from bnfold.report.style import Style, number, plural, printable, size
from bnfold.report.table import paragraph, table

Document = Mapping[str, Any]


def render_artifact(document: Document, style: Style) -> str:
    """The manifest: where it comes from, its inputs and outputs, every BatchNorm, the parity."""
    manifest = document["manifest"]
    source = manifest["source"]
    head = (
        f"{document['path']}: {manifest['target']} {manifest['precision']}, {size(document['size_bytes'])}, "
        f"written by bnfold {manifest['bnfold']}"
    )
    lines = [style.paint(style.plain(printable(head)), "bold"), f"  sha256   {document['sha256']}"]
    if source and source.get("name"):  # a network that was handed over in Python comes from no file
        origin = f"{source.get('name')} ({source.get('format')}), sha256 {str(source.get('sha256'))[:12]}"
        lines.append(paragraph(f"source   {origin}", style, indent="  ", hanging=" " * 11))
    libraries = ", ".join(f"{name} {version}" for name, version in manifest["libraries"].items())
    lines.append(paragraph(f"made by  {libraries}", style, indent="  ", hanging=" " * 11))
    for entry in manifest["runs_on"]:
        runs = f"runs on  {entry['runtime']} {entry['version']} ({entry['basis']})"
        lines.append(paragraph(runs, style, indent="  ", hanging=" " * 11))
    lines += [
        paragraph(f"rounding {text}", style, indent="  ", hanging=" " * 11) for text in _rounding(manifest)
    ]
    for allowed in manifest.get("allowed", ()):
        text = f"allowed  {allowed['code']} at {printable(allowed['where'])}"
        lines.append(paragraph(text, style, indent="  ", hanging=" " * 11))
    if manifest["labels"]:
        lines.append(f"  labels   {len(manifest['labels'])}")
    parts = ["\n".join(lines), _tensors(manifest, style), _frames(manifest, style)]
    parts += [
        render_batch_norms(manifest["batch_norms"], style, gains=True),
        render_parity(manifest["parity"], style),
        _agreement(manifest, style),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rounding(manifest: Document) -> list[str]:
    """How a file of a lower precision stores its numbers; nothing for float32."""
    entry = manifest.get("quantisation")
    if not entry:
        return []
    text = f"weights {entry['weights']}; activations {entry['activations']}"
    ranges = entry["calibration"]
    if ranges:
        text += f", ranges from {ranges['source']} ({plural(ranges['frames'], 'frame')})"
    return [text]


def _agreement(manifest: Document, style: Style) -> str:
    entry = manifest.get("quantisation") or {}
    return render_agreement(entry.get("agreement", ()), entry.get("losses", ()), style)


def _tensors(manifest: Document, style: Style) -> str:
    """Names as bnfold has them, and the file's own."""
    rows = [
        (kind, spec["name"], spec["tensor"], spec["dtype"], _shape(spec["shape"]))
        for kind, specs in (("input", manifest["inputs"]), ("output", manifest["outputs"]))
        for spec in specs
    ]
    return table(("", "name", "tensor in the file", "dtype", "shape"), rows, style)


def _frames(manifest: Document, style: Style) -> str:
    lines = []
    for spec in manifest["inputs"]:
        how = spec.get("normalisation")
        text = f"{spec['name']}: "
        if how:
            text += f"frames are prepared as {describe(how)}"
        else:
            text += "takes arrays that are prepared already, no images"
        lines.append(paragraph(text, style, indent="  ", hanging="    "))
    return "\n".join(lines)


def render_checkpoint(document: Document, style: Style) -> str:
    """The state dicts inside, their tensors in sum, and their BatchNorms."""
    head = f"{document['path']}: {document['format']} checkpoint, {size(document['size_bytes'])}"
    parts = [f"{style.paint(style.plain(printable(head)), 'bold')}\n  sha256   {document['sha256']}"]
    default = document["default"] if len(document["state_dicts"]) > 1 else None
    parts += [_state_dict(state, default, style) for state in document["state_dicts"]]
    for state in document["unusable"]:
        parts.append(paragraph(f"{state['name']} cannot be used: {state['reason']}", style, hanging="  "))
    parts.append(render_findings(document["findings"], style))
    return "\n\n".join(part for part in parts if part) + "\n"


def _state_dict(state: Document, default: str | None, style: Style) -> str:
    tensors = state["tensors"]
    count = sum(prod(tensor["shape"] or ()) for tensor in tensors)
    dtypes = Counter(tensor["dtype"] for tensor in tensors)
    used = " (the one that is used unless --state names another)" if state["name"] == default else ""
    sums = ", ".join(f"{many} {dtype}" for dtype, many in dtypes.most_common())
    head = f"{state['name']}: {plural(len(tensors), 'tensor')} ({sums}), {count:,} values{used}"
    lines = [paragraph(head, style, hanging="  ")]
    rows = [(tensor["name"], tensor["dtype"], _shape(tensor["shape"])) for tensor in tensors]
    lines.append(table(("tensor", "dtype", "shape"), rows, style))
    if state["batch_norms"]:
        lines.append("")
        lines.append(style.paint(plural(len(state["batch_norms"]), "BatchNorm"), "bold"))
        headers = ("name", "channels", "running mean", "running variance", "batches")
        norms = [
            (
                norm["name"] or "(the whole)",
                "-" if norm["channels"] is None else norm["channels"],
                _range(norm["running_mean"]),
                _range(norm["running_var"]),
                "-" if norm["num_batches_tracked"] is None else norm["num_batches_tracked"],
            )
            for norm in state["batch_norms"]
        ]
        lines.append(table(headers, norms, style, right=("channels", "batches")))
    return "\n".join(lines)


def _range(values: Document | None) -> str:
    if values is None:
        return "no numbers"
    text = "" if values["min"] is None else f"{number(values['min'])} to {number(values['max'])}"
    wrong = f"{values['non_finite']} not finite" if values["non_finite"] else ""
    return ", ".join(part for part in (text, wrong) if part)


def _shape(shape: list[int | None] | None) -> str:
    if shape is None:
        return "nested"
    return "x".join("batch" if axis is None else str(axis) for axis in shape) or "scalar"
