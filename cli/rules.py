"""``bnfold rules``: what the fold engine can do, and one rule's algebra in full."""

from __future__ import annotations

import argparse
import inspect
import re
from typing import Any

from bnfold.errors import UsageError
from bnfold.report import Style
from bnfold.report.table import paragraph, table

from .command import CommandParser, Context, Outcome, did_you_mean


def configure(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("name", nargs="?", default=None, metavar="NAME", help="show this rule in full")


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """List the rules, or show one."""
    context.start_torch()
    from bnfold.fold.rules import all_rules

    rules = {rule.name: rule for rule in all_rules()}
    if options.name is None:
        listed = [{"name": name, "algebra": rule.algebra} for name, rule in rules.items()]
        return Outcome(
            True, {"schema": 1, "passed": True, "rules": listed}, lambda style: _list(listed, style)
        )
    if options.name not in rules:
        fix = did_you_mean(options.name, rules) or "bnfold rules lists them"
        raise UsageError("BNF-U025", f"there is no rule {options.name!r}", fix=fix)
    rule = rules[options.name]
    text = inspect.getdoc(inspect.getmodule(type(rule))) or ""
    document = {
        "schema": 1,
        "passed": True,
        "rules": [{"name": rule.name, "algebra": rule.algebra, "text": text}],
    }

    def render(style: Style) -> str:
        return f"{style.paint(rule.name, 'bold')}\n\n{_wrapped(text, style)}\n"

    return Outcome(True, document, render)


def _wrapped(text: str, style: Style) -> str:
    """The docstring in the reader's width; indented parts are formulas and tables, and keep their lines."""
    parts = re.split(r"\n\s*\n", text)
    formula = re.compile(r"^\s", re.MULTILINE)
    return "\n\n".join(
        style.plain(part) if formula.search(part) else paragraph(part, style) for part in parts
    )


def _list(rules: list[dict[str, Any]], style: Style) -> str:
    rows = [(rule["name"], rule["algebra"]) for rule in rules]
    return f"{table(('rule', 'algebra'), rows, style)}\n\nbnfold rules NAME shows one in full.\n"
