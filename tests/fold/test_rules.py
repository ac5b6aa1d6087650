"""The contract of every fold rule: its own cases, against the float64 oracle."""

from __future__ import annotations

import pytest
import torch

from bnfold.fold import fold
from bnfold.fold.rules import Case, all_rules
from tests.fold.networks import check_fold, draw_statistics

CASES = [(rule, case) for rule in all_rules() for case in rule.cases()]


@pytest.mark.parametrize(("rule", "case"), CASES, ids=[f"{rule.name}: {case.name}" for rule, case in CASES])
def test_case(rule: object, case: Case) -> None:
    torch.manual_seed(0)
    module = draw_statistics(case.build(), seed=7)
    x = torch.randn(case.shape)
    result = fold(module, (x,))
    assert tuple(entry.status for entry in result.report.batch_norms) == case.statuses
    check_fold(module, result, (x,))


def test_every_rule_is_used_by_its_own_cases() -> None:
    for rule in all_rules():
        used: set[str] = set()
        for case in rule.cases():
            torch.manual_seed(0)
            report = fold(draw_statistics(case.build(), seed=7), (torch.randn(case.shape),)).report
            used.update(name for entry in report.batch_norms for name in entry.rules)
        assert rule.name in used


def test_rules_explain_themselves() -> None:
    for rule in all_rules():
        assert rule.algebra
        module = __import__(type(rule).__module__, fromlist=["_"])
        assert module.__doc__
        assert "=" in module.__doc__
