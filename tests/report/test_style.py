"""Colours, characters and numbers."""

from __future__ import annotations

import io

import pytest

from bnfold.report.style import Style, number, size


class Terminal(io.StringIO):
    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


def test_colour_on_a_terminal_unless_the_user_says_no() -> None:
    assert Style.of(Terminal(), {}).paint("x", "red") == "\x1b[31mx\x1b[0m"
    assert Style.of(Terminal(), {"NO_COLOR": "1"}).paint("x", "red") == "x"
    assert Style.of(Terminal(), {"TERM": "dumb"}).paint("x", "red") == "x"
    assert Style.of(io.StringIO(), {}).paint("x", "red") == "x"


def test_80_columns_where_nobody_looks() -> None:
    assert Style.of(io.StringIO(), {"COLUMNS": "200"}).width == 80


@pytest.mark.parametrize("columns", ["20", "100", "500"])
def test_the_width_of_a_terminal_within_reason(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert Style.of(Terminal()).width == {"20": 40, "100": 100, "500": 120}[columns]


def test_signs_that_the_terminal_cannot_show() -> None:
    assert Style.of(Terminal("latin-1"), {}).plain("√(σ² + ε) → W·x") == "sqrt(sigma^2 + eps) -> W*x"
    assert Style.of(Terminal(), {}).plain("σ²") == "σ²"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.234e-7, "1.2e-07"), (0.00123, "0.0012"), (12.34, "12"), (123456.0, "1.2e+05"),
     (None, "not finite")],
)  # fmt: skip
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (92_140, "92.1 kB"), (2**31, "2.1 GB")]
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text
