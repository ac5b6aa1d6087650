from __future__ import annotations

import json

from bnfold.finding import Finding, by_severity, passed

INFO = Finding("BNF-A020", "info", "bn1", "two dead channels", {"channels": [1, 2]})
WARNING = Finding("BNF-A008", "warning", "bn2", "large")
ORIGIN = Finding("BNF-A001", "error", "bn3.running_mean[0]", "NaN", {"channels": [0]}, "recalibrate")
CONSEQUENCE = Finding("BNF-A001", "error", "bn4.running_mean", "NaN")


def test_errors_come_first_and_the_origin_before_its_consequence() -> None:
    assert by_severity([INFO, ORIGIN, WARNING, CONSEQUENCE]) == [ORIGIN, CONSEQUENCE, WARNING, INFO]


def test_only_an_error_fails() -> None:
    assert passed([])
    assert passed([INFO, WARNING])
    assert not passed([INFO, ORIGIN])


def test_json() -> None:
    assert json.loads(json.dumps(ORIGIN.to_json())) == {
        "code": "BNF-A001",
        "severity": "error",
        "where": "bn3.running_mean[0]",
        "message": "NaN",
        "evidence": {"channels": [0]},
        "remedy": "recalibrate",
    }
