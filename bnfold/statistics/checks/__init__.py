"""One file per check. Every module in this folder that defines a `Check` is found by itself.

A check is pure: it reads a `Subject` and returns findings. What several checks see of one cause is settled
here: a check may supersede the findings of another at the same layer, and findings that follow from an
earlier layer's name it as their origin.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache

from bnfold.finding import Finding
from bnfold.statistics.causes import DIVERGED
from bnfold.statistics.checks._base import Check, LayerCheck, among, channel_list, evidence, with_origin
from bnfold.statistics.checks.batch_statistics import batch_dependent
from bnfold.statistics.layers import Layer
from bnfold.statistics.subject import Subject


@cache
def all_checks() -> tuple[Check, ...]:
    """Every check in this folder, in the order of the catalogue.

    Raises:
        ValueError: two checks find the same cause.
    """
    checks: dict[str, Check] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        for kind in vars(module).values():
            if not (
                isinstance(kind, type) and issubclass(kind, Check) and kind.__module__ == module.__name__
            ):
                continue
            check = kind()
            for cause in check.causes:
                if cause.code in checks:
                    raise ValueError(f"two checks find {cause.code}")
                checks[cause.code] = check
    return tuple(dict.fromkeys(checks[code] for code in sorted(checks)))


def judge(subject: Subject) -> list[Finding]:
    """What all checks find in a network, check by check; within a check in the order of the layers."""
    found = [(check, list(check.examine(subject))) for check in all_checks()]
    return _settled(found)


def judge_layer(layer: Layer) -> list[Finding]:
    """The errors that make one layer unusable, the first to act on first; empty for a usable layer."""
    found = [
        (check, [finding for finding in check.of_layer(layer) if finding.severity == "error"])
        for check in all_checks()
        if isinstance(check, LayerCheck) and check.stops
    ]
    return diverged_first(_settled(found))


def diverged_first(findings: Iterable[Finding]) -> list[Finding]:
    """Where parameters are not finite, statistics are beside the point; else the order is kept."""
    return sorted(findings, key=lambda finding: finding.code != DIVERGED.code)


@cache
def superseded_by(code: str) -> frozenset[str]:
    """The codes that a finding of this code makes needless at its layer, its own included."""
    causes = [cause for check in all_checks() for cause in check.supersedes if code in _codes(check)]
    return frozenset({code, *(cause.code for cause in causes)})


def _codes(check: Check) -> set[str]:
    return {cause.code for cause in check.causes}


def explained(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in execution order: those that follow from an earlier one of the same cause say so."""
    listed = list(findings)
    for check in all_checks():
        codes = _codes(check)
        at = [i for i, finding in enumerate(listed) if finding.code in codes and finding.severity == "error"]
        for i, finding in zip(at, with_origin([listed[i] for i in at], check), strict=True):
            listed[i] = finding
    return listed


def _settled(found: Sequence[tuple[Check, list[Finding]]]) -> list[Finding]:
    dropped = {
        (code, finding.evidence.get("layer"))
        for _, findings in found
        for finding in findings
        if "layer" in finding.evidence
        for code in superseded_by(finding.code) - {finding.code}
    }
    return [
        finding
        for _, findings in found
        for finding in findings
        if (finding.code, finding.evidence.get("layer")) not in dropped
    ]


__all__ = [
    "Check",
    "LayerCheck",
    "all_checks",
    "among",
    "batch_dependent",
    "channel_list",
    "diverged_first",
    "evidence",
    "explained",
    "judge",
    "judge_layer",
    "superseded_by",
]
