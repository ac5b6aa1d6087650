"""An error as the user sees it: what, where, fix; at most five lines."""

from __future__ import annotations

from bnfold.errors import BnfoldError
from bnfold.report.style import Style, printable

_LINES = 5
_LONGEST = 400  # characters in one line; what torch says of a tensor can be pages


def render_error(error: BnfoldError, style: Style) -> str:
    """The error in at most five lines. Lines are not wrapped, so that a command in ``fix`` can be copied."""
    head = style.paint(f"error[{error.code}]", "red")
    lines = [f"{head}: {_short(' '.join(error.what.split()), style)}"]
    fix = _part("fix", error.fix, style)[:2]
    where = _part("where", error.where, style)[: _LINES - 1 - len(fix)]
    return "\n".join(lines + where + fix)


def _part(label: str, text: str, style: Style) -> list[str]:
    """The lines of one part, the first with its label."""
    lines = [line for line in text.splitlines() if line.strip()]
    return [
        f"  {label if i == 0 else '':<5}  {_short(line.strip() if i == 0 else line.rstrip(), style)}"
        for i, line in enumerate(lines)
    ]


def _short(line: str, style: Style) -> str:
    line = style.plain(printable(line))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 4] + " ..."
