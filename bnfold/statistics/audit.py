"""Audit: what a checkpoint's population statistics show by themselves, without data.

Statistics that are wrong look right to training, which normalises by the batch. Most of the ways in which
they go wrong leave a signature in the numbers. Checks live in ``checks/``, one file per signature; here they
are run over every network that a file holds, and what they find is put in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bnfold import finding as f
from bnfold.finding import Finding
from bnfold.statistics.causes import DIVERGED, NO_BATCH_NORM, NON_FINITE, POISONED_COPY
from bnfold.statistics.checks import diverged_first, explained, judge
from bnfold.statistics.figures import Figures, figures_of
from bnfold.statistics.layers import EPS
from bnfold.statistics.subject import Subject, reordered


@dataclass(frozen=True)
class AuditResult:
    """What an audit came to.

    Attributes:
        findings: errors first; within a severity in the order of the layers, origin before consequence.
        layers: the numbers of every layer.
        assumed: what a file does not say and was taken to be torch's default: ``momentum``, ``eps``.
    """

    findings: list[Finding]
    layers: list[Figures] = field(default_factory=list)
    assumed: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no finding is an error."""
        return f.passed(self.findings)


def audit(module_or_state_dict: Any) -> list[Finding]:
    """What the population statistics of a network show by themselves, without data.

    Args:
        module_or_state_dict: an ``nn.Module`` (its mode does not matter, and it is not changed), or a mapping
            from qualified names to tensors.

    Returns:
        Findings by severity, then in module order; the first is the one to act on. A healthy network has no
        error. ``severity`` is ``error`` where the deployed network would be wrong.

    Raises:
        TypeError: it is neither a module nor a mapping.

    Causes and their signatures, with sources, are in docs/audit.md. The weight of the initial value of an
    exponential average after T updates is (1 - momentum)^T (Ioffe and Szegedy 2015 for the average; torch's
    convention for the momentum).
    """
    return examine(module_or_state_dict).findings


def examine(
    source: Any,
    *,
    steps: int | None = None,
    momentum: float | None = None,
    against: Any = None,
    order: Sequence[str] = (),
) -> AuditResult:
    """As `audit`, with what else is known, and with the numbers of every layer.

    Args:
        source: an ``nn.Module``, or a state dict.
        steps: forward passes of training.
        momentum: of the running averages; default the module's own, or torch's 0.1 for a state dict.
        against: another checkpoint of the same network: a module or a state dict.
        order: names of the BatchNorm calls of one forward pass, as in a fold's report. Findings are in that
            order, and a layer that is called twice is known to be.

    Raises:
        TypeError: source or against is neither a module nor a mapping.
    """
    subject = Subject.of(source, steps=steps, momentum=momentum)
    if against is not None:
        subject = compared(subject, Subject.of(against))
    return examine_all([in_order(subject, order)])


def compared(subject: Subject, other: Subject) -> Subject:
    """The subject with another checkpoint to compare with.

    A copy that was poisoned is told from an older or newer file by the counters: two files of one moment have
    the same, or it is called an average.
    """
    twins = [(layer, twin) for layer in subject.layers if (twin := other.layer(layer.name)) is not None]
    one_moment = bool(twins) and all(layer.updates == twin.updates for layer, twin in twins)
    is_copy = subject.plain is None and (one_moment or subject.averaged)
    return replace(subject, against=other, plain=other if is_copy else subject.plain)


def in_order(subject: Subject, calls: Sequence[str]) -> Subject:
    """The subject with its layers in the order of these calls, ``path#2`` for a second one."""
    if not calls:
        return subject
    owners = [owner(call) for call in calls]
    counts = {name: owners.count(name) for name in owners}
    return replace(subject, layers=reordered(subject, owners), calls=counts, ordered=True)


def owner(call: str) -> str:
    """The module that a call of a fold's report belongs to: ``bn#2`` and ``bn.batch_norm`` to bn."""
    name = call.partition("#")[0]
    return "" if name == "batch_norm" else name.removesuffix(".batch_norm")


def examine_all(subjects: Sequence[Subject]) -> AuditResult:
    """Every network of a file. Where there are several, each finding names its state dict."""
    named = len(subjects) > 1
    findings: list[Finding] = []
    for subject in subjects:
        findings += [_named(found, subject.name) if named else found for found in findings_of(subject)]
    layers = [
        figures for subject in subjects for figures in figures_of(subject, subject.name if named else "")
    ]
    if not layers:
        findings.append(_none())
    unknown = [layer for subject in subjects for layer in subject.layers if layer.eps is None]
    assumed: dict[str, float] = {"eps": EPS} if unknown else {}
    for subject in subjects:
        for layer in subject.layers:
            value, is_assumed = subject.momentum_of(layer)
            if is_assumed and value is not None and subject.updates_of(layer):
                assumed["momentum"] = value
    return AuditResult(f.by_severity(_merged(findings)), layers, assumed)


def findings_of(subject: Subject) -> list[Finding]:
    """What the checks find in one network: by severity, then in the order of the layers."""
    order = {layer.name: number for number, layer in enumerate(subject.layers)}

    def place(finding: Finding) -> int:
        # parameters that are not finite keep the order of the parameters
        if finding.code == DIVERGED.code or "layer" not in finding.evidence:
            return -1
        return order[finding.evidence["layer"]]

    found = diverged_first(sorted(judge(subject), key=place))
    if not subject.ordered:
        found = _partly_hit_first(found)
    return f.by_severity(explained(found))


def _partly_hit_first(found: list[Finding]) -> list[Finding]:
    """Without a known order: what reaches all channels came through a layer where it began in a few."""
    for code in (NON_FINITE.code, POISONED_COPY.code):
        at = [i for i, finding in enumerate(found) if finding.code == code]
        partly = [i for i in at if len(found[i].evidence["channels"]) < found[i].evidence["count"]]
        if partly and partly[0] != at[0]:
            found = [*found[: at[0]], found[partly[0]], *found[at[0] : partly[0]], *found[partly[0] + 1 :]]
    return found


def _named(finding: Finding, state: str) -> Finding:
    return replace(
        finding, message=f'in "{state}": {finding.message}', evidence={**finding.evidence, "state": state}
    )


def _merged(findings: list[Finding]) -> list[Finding]:
    """State dicts that hold the same network are told once."""
    told: dict[tuple[str, str, str], Finding] = {}
    for finding in findings:
        state = finding.evidence.get("state")
        bare = finding.message if state is None else finding.message.removeprefix(f'in "{state}": ')
        key = (finding.code, finding.where, bare)
        if key in told and state is not None:
            first = told[key]
            states = [*first.evidence.get("states", [first.evidence["state"]]), state]
            quoted = " and ".join(f'"{name}"' for name in states)
            told[key] = replace(
                first, message=f"in {quoted}: {bare}", evidence={**first.evidence, "states": states}
            )
        else:
            told[key] = finding
    return list(told.values())


def _none() -> Finding:
    return Finding(
        NO_BATCH_NORM.code,
        "info",
        "",
        "there is no BatchNorm with running statistics in it, so there is nothing to audit",
        {},
        "a layer without running statistics shows in a module only: give --model",
    )


__all__ = ["AuditResult", "audit", "compared", "examine", "examine_all", "findings_of", "in_order", "owner"]
