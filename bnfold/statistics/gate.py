"""What stops a conversion: the audit of the module, then what the fold found, each cause once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bnfold import finding as f
from bnfold.finding import Finding
from bnfold.fold.report import BatchNormEntry, FoldReport
from bnfold.statistics.audit import findings_of, in_order, owner
from bnfold.statistics.checks import superseded_by
from bnfold.statistics.subject import Subject


def findings(module: Any, report: FoldReport) -> list[Finding]:
    """What is wrong with parameters and population statistics: origin before consequence.

    A parameter that is not finite is an error though the outputs may be finite (a sigmoid hides an infinity).
    A BatchNorm that the network does not run, as in a head for training, is left out.

    Args:
        module: the ``nn.Module`` that was folded.
        report: what its fold came to.
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
