"""What the reader's terminal can show: its width, its characters, its colours."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Literal

Colour = Literal["red", "yellow", "green", "bold", "dim"]

_SGR: dict[Colour, str] = {"red": "31", "yellow": "33", "green": "32", "bold": "1", "dim": "2"}

# The signs that rule docstrings and reports use, for terminals that cannot show them.
_ASCII = str.maketrans(
    {
        "·": "*", "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "→": "->", "←": "<-", "≤": "<=",
        "≥": ">=", "≠": "!=", "≈": "~", "√": "sqrt", "²": "^2", "Σ": "sum", "∑": "sum", "σ": "sigma",
        "μ": "mu", "γ": "gamma", "β": "beta", "ε": "eps", "∞": "inf", "“": '"', "”": '"', "‘": "'", "’": "'",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How to render.

    Attributes:
        width: columns.
        unicode: whether signs outside ASCII can be shown.
        colour: whether escape sequences may be used.
    """

    width: int = 80
    unicode: bool = True
    colour: bool = False

    @classmethod
    def of(cls, stream: IO[str], environ: Mapping[str, str] | None = None) -> Style:
        """The style for a stream: 80 plain columns unless it is a terminal."""
        environ = os.environ if environ is None else environ
        encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "").replace("_", "")
        unicode = encoding.startswith("utf")
        if not stream.isatty():
            return cls(unicode=unicode)
        colour = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        columns = shutil.get_terminal_size((80, 24)).columns
        # Tables wider than this are harder to read, not easier.
        return cls(width=max(40, min(columns, 120)), unicode=unicode, colour=colour)

    def paint(self, text: str, colour: Colour) -> str:
        """The text in a colour, or as it is where there is none."""
        return f"\x1b[{_SGR[colour]}m{text}\x1b[0m" if self.colour else text

    def plain(self, text: str) -> str:
        """The text with the signs this stream can show."""
        if self.unicode:
            return text
        return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def printable(text: object) -> str:
    """One line without control characters: names come out of files, and files may be hostile."""
    return "".join(
        char if char == " " or unicodedata.category(char)[0] not in "CZ" else _escape(char)
        for char in str(text)
    )


def _escape(char: str) -> str:
    return " " if char in "\n\t" else char.encode("unicode_escape").decode("ascii")


def number(value: float | None) -> str:
    """A number for a table: ``1.2e-07``; ``-`` for none (JSON has no infinity)."""
    if value is None:
        return "not finite"
    return "0" if value == 0 else f"{value:.2g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def size(count: int) -> str:
    """Bytes for people, in powers of 1000: ``92.1 kB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def plural(count: int, word: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
