"""The frame of every page: its order, what it escapes, and that it needs nothing but itself."""

from __future__ import annotations

from typing import Any

import pytest

from bnfold.errors import PlatformError
from bnfold.report import html
from bnfold.report.html.page import Image, Page, Plot, Row, Table, file_name, number, render, verdict_of

from .reading import read

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><svg onload=alert(1)>",
    "a{{ 7 * 7 }}b",
    "\x1b[31mred\x00\u202e",
    "<!-- --> ]]> &amp;",
    "層",
)


def finding(severity: str = "error", **more: Any) -> dict[str, Any]:
    said = {
        "code": "BNF-A001", "severity": severity, "where": "bn1.running_mean[2]",
        "message": "it is not finite", "evidence": {}, "remedy": "recalibrate",
    }  # fmt: skip
    return {**said, **more}


def page(**more: Any) -> Page:
    said: dict[str, Any] = {
        "title": "Audit of net.pt", "facts": ["3 BatchNorms"], "verdict": "FAILED", "tone": "error",
        "nothing": "all is well", "findings": [],
    }  # fmt: skip
    return Page(**{**said, **more})


def test_the_verdict_and_what_to_act_on_come_first() -> None:
    note = finding("info", code="BNF-L102", message="widened")
    first = finding("warning", code="BNF-A005")
    later = finding(code="BNF-A001", message="that too", evidence={"origin": "bn1"})
    text = render(page(findings=[note, first, later], tables=[Table("Layers", ["layer"], [Row(["bn1"])])]))
    found = read(text)
    order = [found.text.index(word) for word in ("FAILED", "What to do:", "Findings", "Plots", "Layers")]
    assert order == sorted(order)
    head = found.text[: found.text.index("Findings")]
    assert "BNF-A005" in head
    assert "recalibrate" in head
    assert "BNF-L102" not in head
    assert "1 more that follow from these" in found.text
    assert "all is well" not in found.text


def test_where_nothing_is_to_be_done_it_is_said() -> None:
    found = read(render(page(verdict="passed", tone="good", findings=[finding("info")])))
    assert "all is well" in found.text
    assert "What to do:" not in found.text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_comes_from_outside_is_text(hostile: str) -> None:
    image = Image("data:image/png;base64,AAAA", 4, 4, hostile, hostile)
    every = page(
        title=hostile,
        facts=[hostile],
        notes=[hostile],
        findings=[finding(code=hostile, where=hostile, message=hostile, remedy=hostile)],
        plots=[Plot(hostile, hostile, images=[image])],
        tables=[Table(hostile, [hostile], [Row([hostile])], note=hostile)],
    )
    plain = read(render(page(
        title="t", facts=["f"], notes=["n"], findings=[finding()],
        plots=[Plot("p", "c", images=[Image("data:,", 4, 4, "a", "l")])],
        tables=[Table("t", ["h"], [Row(["c"])], note="n")],
    )))  # fmt: skip
    found = read(render(every))
    assert found.tags == plain.tags
    assert [name for _, name, _ in found.attributes] == [name for _, name, _ in plain.attributes]
    shown = {"\x1b[31mred\x00\u202e": "\\x1b[31mred\\x00\\u202e"}.get(hostile, hostile)
    assert found.texts.count(shown) >= 10
    assert found.values("alt") == [shown]


def test_the_same_page_has_the_same_bytes() -> None:
    assert render(page(findings=[finding()])) == render(page(findings=[finding()]))


def test_folders_are_left_out() -> None:
    assert file_name("/home/someone/nets/a.pt") == "a.pt"


@pytest.mark.parametrize(
    ("passed", "severities", "expected"),
    [
        (False, ["error"], ("FAILED", "error")),
        (True, ["warning", "info"], ("passed, with warnings", "warning")),
        (True, ["info"], ("passed", "good")),
    ],
)
def test_the_verdict_in_words(passed: bool, severities: list[str], expected: tuple[str, str]) -> None:
    assert verdict_of(passed, [finding(severity) for severity in severities]) == expected


def test_what_is_missing_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    html.require()
    monkeypatch.setattr(html, "find_spec", lambda name: None if name == "matplotlib" else object())
    with pytest.raises(PlatformError) as caught:
        html.require()
    assert caught.value.code == "BNF-P030"
    assert "needs matplotlib, which is not installed" in caught.value.what
    assert caught.value.fix == "pip install 'bnfold[report]'"


def test_numbers_have_three_digits() -> None:
    shown = [number(value) for value in (None, 0.0, 250.4, 1234.5, 2e5, 0.01234, -1.5, 1.234e-7)]
    assert shown == ["not finite", "0", "250", "1234", "2.0e+05", "0.0123", "-1.5", "1.2e-07"]
