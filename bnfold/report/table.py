"""A table of text that fits its width: long cells wrap, nothing is cut off."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from bnfold.report.style import Style, printable

_GAP = 2
_NARROWEST = 6


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    style: Style,
    *,
    right: Sequence[str] = (),
    indent: int = 2,
) -> str:
    """Rows of text, one column per header.

    Args:
        headers: column titles; a title breaks at its spaces where the column is narrower.
        rows: cells of any type, one per header.
        style: gives the width.
        right: titles of the columns to align right (numbers).
        indent: columns left free on the left.
    """
    cells = [[style.plain(printable(cell)) for cell in row] for row in rows]
    available = style.width - indent - _GAP * (len(headers) - 1)
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(headers)]
    if sum(widths) > available:
        # A title may take two lines: its longest word is what the column must have room for.
        words = [max(map(len, title.split() or [""])) for title in headers]
        widths = _fit([max([words[i], *(len(r[i]) for r in cells)]) for i in range(len(words))], available)
    lines = [style.paint(line, "dim") for line in _lines(headers, headers, widths, right, indent)]
    for row in cells:
        lines += _lines(row, headers, widths, right, indent)
    return "\n".join(lines)


def _fit(widths: list[int], available: int) -> list[int]:
    """Take columns from the widest until they fit, leaving each wide enough to read."""
    widths = list(widths)
    while sum(widths) > available:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def _lines(
    row: Sequence[str], headers: Sequence[str], widths: Sequence[int], right: Sequence[str], indent: int
) -> list[str]:
    columns = [_wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
    lines = []
    for parts in zip_longest(*columns, fillvalue=""):
        padded = [
            part.rjust(width) if title in right else part.ljust(width)
            for part, width, title in zip(parts, widths, headers, strict=True)
        ]
        lines.append((" " * indent + (" " * _GAP).join(padded)).rstrip())
    return lines


def _wrap(text: str, width: int) -> list[str]:
    """Break at spaces, else after a dot or a slash of a long name, else anywhere."""
    if len(text) <= width:
        return [text]
    marked = text.replace(".", ".\0").replace("/", "/\0")
    lines = [""]
    for word in marked.replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines if line.strip()]


def paragraph(text: str, style: Style, *, indent: str = "", hanging: str | None = None) -> str:
    """Wrapped text; ``hanging`` is the indentation of all lines but the first. Commands are never broken."""
    return textwrap.fill(
        style.plain(printable(text)),
        width=style.width,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
