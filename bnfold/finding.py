"""The one currency of every check: a finding. Reports are renderings of findings and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]

_RANK: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class Finding:
    """What a check saw.

    Attributes:
        code: stable, one per cause: ``BNF-A001``.
        severity: ``error`` (the deployed model would be wrong), ``warning`` (legitimate in some models,
            or harmless so far) or ``info``.
        where: the module's qualified name, then buffer and channels: ``layer1.0.bn2.running_var[7]``.
        message: one sentence with the numbers.
        evidence: the numbers for machines; channel numbers stand in ``channels``. JSON types only.
        remedy: what to do.
    """

    code: str
    severity: Severity
    where: str
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON types."""
        return {
            "code": self.code,
            "severity": self.severity,
            "where": self.where,
            "message": self.message,
            "evidence": dict(self.evidence),
            "remedy": self.remedy,
        }


def by_severity(findings: list[Finding]) -> list[Finding]:
    """The findings, errors first; within a severity the order is kept (execution order, origin first)."""
    return sorted(findings, key=lambda finding: _RANK[finding.severity])


def passed(findings: list[Finding]) -> bool:
    """Whether no finding is an error."""
    return all(finding.severity != "error" for finding in findings)
