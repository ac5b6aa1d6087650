"""JUnit XML: a parser reads it, the counts are right, and it fails exactly when the check does."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from bnfold.report.junit import drift_junit


def tier(number: int, *, judged: bool = True, drifted: bool = False, reason: str = "") -> dict[str, Any]:
    return {"tier": number, "judged": judged, "drifted": drifted, "reason": reason, "layers": []}


def finding(code: str, severity: str, **more: Any) -> dict[str, Any]:
    said = {"code": code, "severity": severity, "where": "stem.bn[3]", "message": "moved", "remedy": "look"}
    return {**said, **more}


def suite(*findings: dict[str, Any], tiers: list[dict[str, Any]] | None = None, **more: Any) -> Any:
    document = {
        "artifact": "/home/someone/net.monitor.onnx", "predictions": None,
        "tiers": tiers or [tier(1), tier(0)], "findings": list(findings), **more,
    }  # fmt: skip
    text = drift_junit(document)
    assert text.isascii()
    assert "/home" not in text
    assert text == drift_junit(document)
    return ElementTree.fromstring(text)


def cases(root: Any) -> dict[str, list[str]]:
    """The elements in each case, by its name."""
    return {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}


def counts(root: Any) -> tuple[int, ...]:
    return tuple(int(root.get(key)) for key in ("tests", "failures", "errors", "skipped"))


def test_no_drift() -> None:
    root = suite(finding("BNF-D006", "info"), finding("BNF-D002", "info"))
    assert root.tag == "testsuite"
    assert root.get("name") == "bnfold drift net.monitor.onnx"
    assert counts(root) == (4, 0, 0, 0)
    assert cases(root) == {
        "frames are finite": [], "activations are finite": [],
        "tier 1: held-out frames": ["system-out"], "tier 0: population statistics": ["system-out"],
    }  # fmt: skip
    assert root.find("testcase[3]/system-out").text == "info[BNF-D006] stem.bn[3]: moved"


def test_drift_fails_in_the_tier_that_decides_only() -> None:
    root = suite(finding("BNF-A017", "error"), finding("BNF-D002", "info"),
                 tiers=[tier(1, drifted=True), tier(0, drifted=True)])  # fmt: skip
    assert counts(root) == (4, 1, 0, 0)
    failure = root.find("testcase[@name='tier 1: held-out frames']/failure")
    assert (failure.get("type"), failure.get("message")) == ("BNF-A017", "moved")
    assert failure.text == "stem.bn[3]: look"
    alone = suite(finding("BNF-A017", "error"), tiers=[tier(0, drifted=True)])
    assert cases(alone)["tier 0: population statistics"] == ["failure"]


def test_a_refusal_to_judge_is_skipped_with_its_reason() -> None:
    root = suite(
        finding("BNF-D001", "info"), tiers=[tier(1, judged=False, reason="3 frames; 8 are needed"), tier(0)]
    )
    assert counts(root) == (4, 0, 0, 1)
    case = root.find("testcase[@name='tier 1: held-out frames']")
    assert case.find("skipped").get("message") == "3 frames; 8 are needed"
    assert "BNF-D001" in case.find("system-out").text


def test_values_that_are_not_finite_have_cases_of_their_own() -> None:
    root = suite(
        finding("BNF-D010", "error"),
        finding("BNF-D011", "error"),
        finding("BNF-D001", "info"),
        tiers=[tier(0, judged=False, reason="no frames")],
    )
    assert counts(root) == (3, 2, 0, 1)
    assert cases(root)["frames are finite"] == ["failure"]
    assert cases(root)["activations are finite"] == ["failure"]


def test_classes_and_statistics_that_do_not_fit_are_no_failure() -> None:
    predictions = {"frames": [3, 5], "baseline": [4, 4]}
    root = suite(finding("BNF-D007", "warning"), finding("BNF-D003", "warning"), predictions=predictions)
    assert counts(root) == (5, 0, 0, 0)
    assert cases(root)["predictions"] == ["system-out"]
    assert cases(root)["tier 0: population statistics"] == ["system-out"]
    assert "predictions" not in cases(suite(predictions={"frames": [3, 5]}))


@pytest.mark.parametrize("hostile", ['"><failure/>', "]]>&lt;", "\x00\x1b[2J\ud800\uffff", "層\n\u202e"])
def test_any_name_is_text(hostile: str) -> None:
    root = suite(
        finding("BNF-A017", "error", where=hostile, message=hostile, remedy=hostile),
        finding("BNF-D004", "info", where=hostile, message=hostile),
        artifact=f"{hostile.replace('/', '')}.onnx",
    )
    assert counts(root) == (4, 1, 0, 0)
    if hostile.isprintable():
        assert root.find(".//failure").get("message") == hostile
        assert hostile in root.find(".//system-out").text
