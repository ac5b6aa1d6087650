"""What this machine can do, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnfold.report.style import Style, printable
from bnfold.report.table import paragraph, table

Document = Mapping[str, Any]


def _detail(purpose: Document) -> str:
    """What is missing, or there in another version than bnfold is tested with; else what it is done with."""
    said = [f"missing: {', '.join(purpose['missing'])}"] if purpose["missing"] else []
    said += [f"not tested with {', '.join(purpose['untested'])}"] if purpose["untested"] else []
    return "; ".join(said) or purpose["with"] or ""


def render_machine(document: Document, style: Style) -> str:
    """The report of ``bnfold doctor``: what works, what is missing and how to get it, versions."""
    head = f"bnfold {document['bnfold']}, Python {document['python']}, {document['platform']}"
    parts = [style.paint(style.plain(printable(head)), "bold")]
    rows = [
        (
            purpose["purpose"],
            "yes" if purpose["works"] else "no",
            _detail(purpose),
        )
        for purpose in document["purposes"]
    ]
    parts.append(table(("this machine can", "", ""), rows, style))
    commands = dict.fromkeys(purpose["install"] for purpose in document["purposes"] if purpose["install"])
    if commands:
        parts.append(
            "\n".join([style.paint("What adds the rest", "bold"), *(f"  {line}" for line in commands)])
        )
    broken = [found for found in document["interpreters"] if found["problem"]]
    for found in broken:
        text = f"{found['name']} is installed and does not load: {found['problem']}"
        parts.append(paragraph(text, style, hanging="  "))
    versions = [(p["name"], p["version"] or "-", p["wanted"] or "any") for p in document["packages"]]
    versions += [
        (found["name"], found["version"] or "-", "an interpreter")
        for found in document["interpreters"]
        if found["name"] not in {p["name"] for p in document["packages"]}
    ]
    parts.append(table(("package", "version", "wanted"), versions, style))
    return "\n\n".join(parts) + "\n"
