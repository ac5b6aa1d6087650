"""Words from files and libraries, made fit for one line."""

from __future__ import annotations

import pytest

from bnfold.wording import clip, clip_path, close, count, first_line, some


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("  a\nb\t", 9, "a\\nb"),
        ("\x1b[31mred", 20, "\\x1b[31mred"),
        ("größer", 9, "größer"),
        ("\u202eabc", 20, "\\u202eabc"),
        (12, 9, "12"),
    ],
)
def test_clip(text: object, width: int, shown: str) -> None:
    assert clip(text, width) == shown


def test_a_path_keeps_its_end() -> None:
    assert clip_path("/a/long/folder/best.pt", 10) == "…r/best.pt"
    assert clip_path("best.pt", 10) == "best.pt"


def test_first_line() -> None:
    assert first_line(ValueError("one\ntwo")) == "ValueError: one"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("x" * 99), 20) == "ValueError: xxxxxxx…"


def test_some() -> None:
    assert some([]) == ""
    assert some(["a", "b", "c"]) == '"a", "b", "c"'
    assert some((str(n) for n in range(12)), limit=2) == '"0", "1" and 10 more'


def test_count() -> None:
    assert [count(n, "key") for n in (0, 1, 2, 1234)] == ["0 keys", "1 key", "2 keys", "1,234 keys"]


def test_close() -> None:
    assert close("bets.pt", ["best.pt", "last.pt", "readme"])[0] == "best.pt"
    assert close("x", ["best.pt"]) == []
