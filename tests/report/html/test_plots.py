"""Drawings: what is written into them stays text, and nothing of them stays behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from bnfold.report.html import plots

ROOT = Path(__file__).parents[3]


def rows(*names: str, alt: str = "two rows") -> str:
    def paint(figure: Any) -> None:
        axes = plots.row_axes(figure, names, "gain")
        axes.barh(range(len(names)), range(len(names)), color=plots.MAIN, label="a")
        plots.legend(figure, axes)

    return plots.draw(plots.rows_height(len(names)) + 40, paint, alt=alt)


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_names_and_units_are_in_the_drawing() -> None:
    svg = rows("stem.bn", "layer1.bn")
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert {"stem.bn", "layer1.bn", "gain", "a"} <= set(texts(svg))
    assert 'aria-label="two rows"' in svg
    assert 'viewBox="0 0 360 ' in svg


def test_colours_follow_the_page() -> None:
    svg = rows("a", "b")
    assert "fill: var(--main)" in svg
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", svg)


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)", "--><img src=x>", "a$b$c$\\frac{", 'q"q', "層\u0645\U0001f600", "", "x\n\x00y"],
)
def test_any_name_is_text(name: str) -> None:
    svg = rows("plain", name, alt=name)
    bare = rows("plain", "b")
    assert re.findall(r"<(\w+)", svg) == re.findall(r"<(\w+)", bare)
    assert "<!--" not in svg
    if name and name.isprintable():
        shown = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert shown in texts(svg)


def test_a_long_name_keeps_its_end() -> None:
    assert plots.label("a" * 40 + ".bn2").endswith(".bn2")
    assert len(plots.label("a" * 40)) == 24
    assert plots.label("") == "(the whole)"


def test_of_very_many_rows_some_are_named() -> None:
    svg = rows(*(f"layer{i}" for i in range(150)))
    named = [text for text in texts(svg) if text.startswith("layer")]
    assert named == [f"layer{i}" for i in range(0, 150, 3)]


def test_the_same_drawing_has_the_same_bytes() -> None:
    assert rows("a", "b") == rows("a", "b")


def test_the_user_s_settings_neither_matter_nor_change() -> None:
    plain = rows("a", "b")
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "svg.hashsalt": None}):
        before = dict(matplotlib.rcParams)
        assert rows("a", "b") == plain
        assert dict(matplotlib.rcParams) == before


def test_nothing_keeps_a_figure() -> None:
    """pyplot keeps what it makes; it is not even imported."""
    program = (
        "import sys, gc; from tests.report.html.test_plots import rows\n"
        "from matplotlib.figure import Figure\n"
        "rows('a', 'b'); gc.collect()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert not [x for x in gc.get_objects() if isinstance(x, Figure)]"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
