"""A drift check as JUnit XML, for the test report of a build server: one suite, a case for each check.

    frames are finite               what came in can be run
    activations are finite          finite frames give finite values
    tier 1: held-out frames         where there are any
    tier 0: population statistics
    predictions                     the classes given, where the network gives scores and a baseline does

A case fails where a finding of severity ``error`` belongs to it, so the suite fails exactly when the exit
status is 1. A tier that refused to judge is skipped, with its reason. A tier that does not decide never
fails: what it says stands in the output of its case, as warnings and notes do. It has no times and no hosts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any
from xml.etree import ElementTree

from bnfold.report.style import printable

Document = Mapping[str, Any]

_FRAMES, _ACTIVATIONS, _PREDICTIONS = "frames are finite", "activations are finite", "predictions"
_TIERS = {0: "tier 0: population statistics", 1: "tier 1: held-out frames"}

# findings that belong to one case whichever tier decides; all others belong to the tier that decides
_CASE_OF = {"BNF-D010": _FRAMES, "BNF-D011": _ACTIVATIONS, "BNF-D007": _PREDICTIONS}
_OF_THE_SECOND = ("BNF-D002", "BNF-D003")


def drift_junit(document: Document) -> str:
    """The document of ``bnfold drift`` as XML, in ASCII characters."""
    tiers = document["tiers"]
    cases: dict[str, list[Document]] = {_FRAMES: [], _ACTIVATIONS: []}
    cases |= {_TIERS[tier["tier"]]: [] for tier in tiers}
    if document["predictions"] is not None and "baseline" in document["predictions"]:
        cases[_PREDICTIONS] = []
    for finding in document["findings"]:
        cases.setdefault(_case_of(finding, tiers), []).append(finding)
    skipped = {_TIERS[tier["tier"]]: tier["reason"] for tier in tiers if not tier["judged"]}

    name = f"bnfold drift {PurePath(document['artifact']).name}"
    suite = ElementTree.Element("testsuite", name=_text(name))
    for case, findings in cases.items():
        _append(suite, case, findings, skipped.get(case))
    counts = {
        "tests": len(cases),
        "failures": len(suite.findall("testcase/failure")),
        "errors": 0,
        "skipped": len(suite.findall("testcase/skipped")),
    }
    for key, count in counts.items():
        suite.set(key, str(count))
    ElementTree.indent(suite)
    body = ElementTree.tostring(suite, encoding="us-ascii", xml_declaration=False).decode("ascii")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _case_of(finding: Document, tiers: Sequence[Document]) -> str:
    code = finding["code"]
    if code in _CASE_OF:
        return _CASE_OF[code]
    if code in _OF_THE_SECOND and len(tiers) > 1:
        return _TIERS[tiers[1]["tier"]]
    return _TIERS[tiers[0]["tier"]]


def _append(suite: ElementTree.Element, case: str, findings: Sequence[Document], skipped: str | None) -> None:
    element = ElementTree.SubElement(suite, "testcase", classname="bnfold.drift", name=case)
    errors = [finding for finding in findings if finding["severity"] == "error"]
    for finding in errors:
        failure = ElementTree.SubElement(
            element, "failure", type=_text(finding["code"]), message=_text(finding["message"])
        )
        failure.text = _text(f"{finding['where']}: {finding['remedy']}")
    if skipped is not None and not errors:
        ElementTree.SubElement(element, "skipped", message=_text(skipped))
    told = [_line(finding) for finding in findings if finding["severity"] != "error"]
    if told:
        ElementTree.SubElement(element, "system-out").text = "\n".join(told)


def _line(finding: Document) -> str:
    return _text(f"{finding['severity']}[{finding['code']}] {finding['where']}: {finding['message']}")


def _text(text: object) -> str:
    """One line that XML can hold: control characters and unpaired surrogates are shown escaped."""
    return printable(text).encode("utf-8", "backslashreplace").decode("utf-8")
