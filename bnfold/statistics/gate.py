"""What stops a conversion: the audit of the module, then what the fold found, each cause once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from bnfold import finding as f
from bnfold.errors import UsageError
from bnfold.finding import Finding
from bnfold.fold.report import BatchNormEntry, FoldReport
from bnfold.statistics.audit import findings_of, in_order, owner
from bnfold.statistics.causes import CATALOGUE
from bnfold.statistics.checks import superseded_by
from bnfold.statistics.subject import Subject


def check_allowed(codes: Iterable[str]) -> frozenset[str]:
    """The codes of causes that a conversion may have all the same.

    Raises:
        UsageError: BNF-U180 one is not of the catalogue.
    """
    allowed = frozenset((codes,) if isinstance(codes, str) else codes)
    known = {cause.code for cause in CATALOGUE}
    for code in sorted(allowed - known):
        raise UsageError(
            "BNF-U180",
            f"{code!r} is no cause of the audit's",
            where="allow",
            fix="take the code from a finding: bnfold audit CKPT --model ...",
        )
    return allowed


def findings(module: Any, report: FoldReport, allowed: Collection[str] = ()) -> list[Finding]:
    """What is wrong with parameters and population statistics: origin before consequence.

    A parameter that is not finite is an error though the outputs may be finite (a sigmoid hides an infinity).
    A BatchNorm that the network does not run, as in a head for training, is left out.

    Args:
        module: the ``nn.Module`` that was folded.
        report: what its fold came to.
        allowed: codes whose errors are warnings here: somebody knows better. A BatchNorm that cannot be
            frozen is an error all the same.
    """
    calls = [entry.name for entry in report.batch_norms]
    subject = in_order(Subject.of(module), calls)
    run = {owner(call) for call in calls}
    layers = tuple(
        layer
        for layer in subject.layers
        if not layer.known or not run.isdisjoint((layer.name, *layer.aliases))
    )
    found = merged(findings_of(replace(subject, layers=layers)), report.findings, calls)
    refused = {owner(entry.name) for entry in report.batch_norms if entry.status == "refused"}
    found = [
        _allowed(one) if one.code in allowed and _layers(one).isdisjoint(refused) else one for one in found
    ]
    if not f.passed(found):
        return found  # what is kept because a value is unusable needs no word of its own
    return f.by_severity(found + [_kept(entry) for entry in report.batch_norms if entry.status == "kept"])


def merged(audited: Sequence[Finding], folded: Sequence[Finding], calls: Sequence[str]) -> list[Finding]:
    """Both lists, errors first and in the order of the calls; what both say of a layer is said once."""
    told = {
        (code, _layer(finding))
        for finding in audited
        if "layer" in finding.evidence
        for code in superseded_by(finding.code)
    }
    place = {owner(call): number for number, call in reversed(list(enumerate(calls)))}
    rest = [
        finding
        for finding in folded
        if "layer" not in finding.evidence or (finding.code, _layer(finding)) not in told
    ]
    ours = list(audited)
    for finding in rest:
        at = place.get(_layer(finding), len(calls))
        later = (i for i, other in enumerate(ours) if place.get(_layer(other), -1) > at)
        ours.insert(next(later, len(ours)), finding)
    return f.by_severity(ours)


def _allowed(finding: Finding) -> Finding:
    if finding.severity != "error":
        return finding
    return replace(
        finding,
        severity="warning",
        message=f"{finding.message}; allowed for this conversion",
        evidence={**finding.evidence, "allowed": True},
    )


def _layers(finding: Finding) -> set[str]:
    return {owner(name) for name in (*finding.evidence.get("layers", ()), _layer(finding))}


def _layer(finding: Finding) -> str:
    return owner(str(finding.evidence["layer"])) if "layer" in finding.evidence else "\0"


def _kept(entry: BatchNormEntry) -> Finding:
    return Finding(
        "BNF-A024",
        "warning",
        entry.name,
        f"this BatchNorm stays as a multiplication and an addition: {entry.reason}",
        {"channels": entry.channels},
        "the answers are right; the device pays for it on every frame",
    )
