"""Tables and paragraphs: they fit, they align, and nothing is cut off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.report.style import Style
from bnfold.report.table import paragraph, table

PLAIN = Style()


def test_a_table() -> None:
    text = table(("name", "max error"), [("a", "1"), ("long name", "22")], PLAIN, right=("max error",))
    assert text.splitlines() == [
        "  name       max error",
        "  a                  1",
        "  long name         22",
    ]


def test_titles_break_before_cells_do() -> None:
    text = table(("first", "max error"), [("x" * 10, "1.2e-07")], Style(width=22))
    assert text.splitlines() == ["  first       max", "              error", "  xxxxxxxxxx  1.2e-07"]


def test_a_long_name_breaks_at_its_dots() -> None:
    text = table(("name", "into"), [("backbone.layer1.block0.conv2", "head")], Style(width=30))
    assert text.splitlines()[1:] == ["  backbone.layer1.        head", "  block0.conv2"]


words = st.text(alphabet="abc./ ", max_size=60)


@given(
    rows=st.lists(st.tuples(words, words, words), min_size=1, max_size=4),
    width=st.integers(40, 120),
)
def test_every_line_fits_and_every_letter_is_there(rows: list[tuple[str, str, str]], width: int) -> None:
    text = table(("one", "two", "three"), rows, Style(width=width))
    assert all(len(line) <= width for line in text.splitlines())
    said = sorted(char for char in text if char in "abc./")
    titles = sorted(char for char in "onetwothree" if char in "abc./")
    assert said == sorted([char for row in rows for cell in row for char in cell if char in "abc./"] + titles)


def test_names_out_of_files_cannot_control_the_terminal() -> None:
    text = table(("name",), [("bn\x1b[31m\u202eevil\nline",)], PLAIN)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.splitlines()[1] == r"  bn\x1b[31m\u202eevil line"


@pytest.mark.parametrize("command", ["pip install 'bnfold[edge-onnx]'", "bnfold run x.onnx --self-test"])
def test_paragraphs_break_at_spaces_only(command: str) -> None:
    lines = paragraph(f"to go on: {command}", Style(width=40), indent="  ").splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert "".join(lines).split() == f"to go on: {command}".split()
