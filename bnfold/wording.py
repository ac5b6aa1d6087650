"""Words from a file or from a library, made fit for one line of a message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def clip(text: object, width: int = 90) -> str:
    """One printable line of at most `width` characters; control characters are shown escaped."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text).strip())
    return line if len(line) <= width else line[: width - 1] + "…"


def clip_path(path: object, width: int = 90) -> str:
    """Like `clip`, but a long path keeps its end, which tells more than its beginning."""
    line = clip(path, 10_000)
    return line if len(line) <= width else "…" + line[-(width - 1) :]


def encodable(text: str) -> str:
    """The text with what UTF-8 cannot hold shown escaped: bytes of a file name that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def first_line(error: BaseException, width: int = 90) -> str:
    """``ValueError: the first line of its message``."""
    lines = str(error).strip().splitlines()
    return clip(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, width)


def some(items: Iterable[object], *, limit: int = 3, width: int = 48) -> str:
    """``"a", "b", "c" and 9 more``."""
    names = list(items)
    shown = ", ".join(f'"{clip(name, width)}"' for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def count(number: int, noun: str) -> str:
    """``1 key``, ``12 keys``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def close(word: str, possibilities: Sequence[str], *, limit: int = 3, cutoff: float = 0.6) -> list[str]:
    """The possibilities that look like the word, best first."""
    from difflib import get_close_matches

    return get_close_matches(word, possibilities, n=limit, cutoff=cutoff)
