"""What file and frames come to together: one cause, told once, with the evidence of both.

The order is the catalogue's: what the file itself shows is first. Frames then raise a warning to an error, or
take an error back that they speak against; and what no signature of the file explains gets a cause of its
own, or that of the group where nothing tells the causes apart.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics import causes
from bnfold.statistics.causes import Cause
from bnfold.statistics.diagnose import blame
from bnfold.statistics.diagnose.gap import MARGIN, Gap
from bnfold.statistics.diagnose.seen import Seen
from bnfold.statistics.diagnose.unexplained import accumulated, cause_of
from bnfold.statistics.diagnose.wording import amount, in_sigmas
from bnfold.statistics.subject import Subject

# what explains whatever else is wrong in the statistics: the repair is the same
_WHOLE = {
    cause.code
    for cause in (
        causes.NON_FINITE, causes.POISONED_COPY, causes.ONE_VALUE, causes.NEGATIVE, causes.MISASSIGNED,
        causes.HALF_OVERFLOW, causes.DIVERGED,
    )
}  # fmt: skip

# warnings of a file that become errors where the frames show them
_RAISED = {cause.code for cause in (causes.NEVER_UPDATED, causes.DRIFTED, causes.RANKS, causes.MOVED_APART)}

# A stand-in for a dead channel is not what the channel was: half of what its death changed will do. Of
# planted faults the best of four took 68 % at least, and of gaps with another cause 34 % at most.
_REVIVED, _DONORS = 0.5, 4


def settle(said: list[Finding], seen: Seen, subject: Subject) -> list[Finding]:
    """The findings of the file with what the frames say to them, and what the frames show beyond.

    Args:
        said: of the audit.
        seen: of the frames.
        subject: the network's stored statistics, with another checkpoint where there is one.
    """
    open_ = blame.parted(seen.own)  # what is still to be explained
    findings: list[Finding] = []
    for finding in said:
        finding, explained = _with_frames(finding, seen, open_)
        findings.append(finding)
        open_ = [name for name in open_ if name not in explained]
    findings = _one_of_each(findings, causes.SHARED)
    if any(one.code == causes.SHARED.code and one.severity == "error" for one in findings):
        # what reads a mixture gives one: the layers behind that are shared, too, are off for the same reason
        open_ = [name for name in open_ if seen.owner(name) not in seen.sites]
    if any(one.code in _WHOLE and one.severity == "error" for one in findings):
        return findings
    if not any(seen.own[name].parted.any() for name in open_):
        open_ = []
    if open_:
        return [*findings, cause_of(open_, seen, subject)]
    if any(one.severity == "error" for one in findings):
        return findings
    return _with_sum(findings, accumulated(seen))


def _with_sum(findings: list[Finding], more: list[Finding]) -> list[Finding]:
    """What small gaps add up to is told with the cause that the file gives for them, where it gives one."""
    at = next((number for number, one in enumerate(findings) if _gives_gaps(one)), None)
    if not more or at is None:
        return findings + more
    told = findings[at]
    keys = ("worst_channel", "mean_gap", "scale_gap", "at_least")
    gap = {"call": more[0].evidence["layer"], **{key: more[0].evidence[key] for key in keys}}
    findings[at] = replace(
        told,
        severity="error" if told.code in _RAISED else told.severity,
        message=f"{told.message}; the frames show it: small gaps add up to {more[0].where}",
        evidence={**told.evidence, "gap": gap, "mode": "eval"},
    )
    return findings


def _gives_gaps(finding: Finding) -> bool:
    """Whether a cause that the file gives makes gaps in what the frames show."""
    return finding.code in _RAISED or "weight_on_frames" in finding.evidence


# --- what the file said ------------------------------------------------------------------------------------


def _with_frames(finding: Finding, seen: Seen, open_: list[str]) -> tuple[Finding, list[str]]:
    """A finding of the file with the gaps of its layers, and the calls whose gaps it explains."""
    layers = finding.evidence.get("layers") or [finding.evidence.get("layer")]
    calls = [name for name in seen.own if seen.owner(name) in layers]
    hit = [name for name in open_ if name in calls]
    if finding.code == causes.UNCONVERGED.code:
        return _unconverged(finding, seen, open_, calls)
    if finding.code == causes.SHARED.code:
        return _shared(finding, seen, calls)
    if finding.code == causes.VANISHING.code:
        return _vanished(finding, seen, open_, calls)
    if finding.code in _RAISED and hit:
        return _shown(finding, seen, hit, raised=any(seen.own[name].parted.any() for name in hit)), hit
    if finding.code == causes.UPDATED_TWICE.code:
        # its average remembers half as many frames, so it is less sure than `gap` takes it to be
        hit = [name for name in hit if seen.own[name].certain.max() <= 2 * MARGIN]
        return (_shown(finding, seen, hit, raised=False), hit) if hit else (finding, [])
    if finding.code in _WHOLE and finding.severity == "error" and hit:
        return _shown(finding, seen, hit, raised=False), hit
    return finding, []


def _shown(finding: Finding, seen: Seen, hit: list[str], *, raised: bool) -> Finding:
    """The finding with the numbers of the first call that it explains."""
    gap = seen.own[hit[0]]
    words = (
        f"; the frames show it: in {hit[0] or 'it'} {amount(gap)} "
        f"({int(gap.suspect.sum())} of {len(gap.parted)} channels, {gap.frames} frames)"
    )
    return replace(
        finding,
        severity="error" if raised else finding.severity,
        message=finding.message + words,
        evidence={**finding.evidence, "gap": {"call": hit[0], **in_sigmas(gap)}, "parted": hit},
    )


def _vanished(finding: Finding, seen: Seen, open_: list[str], calls: list[str]) -> tuple[Finding, list[str]]:
    """A dead channel that frames bring to life, or whose death the layers behind it do not know of yet."""
    channels = list(finding.evidence.get("channels", []))
    hit = [name for name in open_ if name in calls and _only(seen.own[name], channels)]
    if hit:
        return _shown(finding, seen, hit, raised=True), hit
    order = list(seen.own)
    behind = [name for name in open_ if calls and order.index(name) > order.index(calls[0])]
    if not behind:
        return finding, []
    alive = dict.fromkeys(calls, channels)
    gone = max(blame.explained(seen.own, seen.revived(alive, donor), behind) for donor in range(_DONORS))
    if gone < _REVIVED:
        return finding, []
    gap = seen.own[behind[0]]
    words = (
        f"; the statistics behind it are from before: in {behind[0]} {amount(gap)} "
        f"({int(gap.suspect.sum())} of {len(gap.parted)} channels), and with the channel alive {gone:.0%} "
        "of that would be gone"
    )
    told = replace(
        finding,
        severity="error" if any(seen.own[name].parted.any() for name in behind) else finding.severity,
        message=finding.message + words,
        evidence={**finding.evidence, "gap": {"call": behind[0], **in_sigmas(gap)}, "explained": gone},
        remedy=f"{finding.remedy}; then recalibrate what reads it (bnfold recalibrate)",
    )
    return told, behind


def _only(gap: Gap, channels: list[int]) -> bool:
    return set(np.flatnonzero(gap.suspect).tolist()) <= set(channels)


def _unconverged(
    finding: Finding, seen: Seen, open_: list[str], calls: list[str]
) -> tuple[Finding, list[str]]:
    estimate = blame.initial_value(seen.trained.readings[name] for name in calls)
    if estimate is not None and (open_ or finding.severity == "warning"):
        words = f"; on the frames its weight comes to {estimate.weight:.2g}"
        evidence = {**finding.evidence, "weight_on_frames": estimate.weight, "left": estimate.left}
        explained = [name for name in open_ if name in calls]
        shown = {"gap": {"call": explained[0], **in_sigmas(seen.own[explained[0]])}} if explained else {}
        return replace(finding, message=finding.message + words, evidence=evidence | shown), explained
    if finding.severity == "error" and not any(name in calls for name in open_):
        words = f"; yet they fit the frames ({seen.trained.frames} of them), so the count may be another's"
        return replace(finding, severity="warning", message=finding.message + words), []
    return finding, []


def _shared(finding: Finding, seen: Seen, calls: list[str]) -> tuple[Finding, list[str]]:
    """Several call sites: wrong where they read different data, harmless where they do not."""
    owner = finding.evidence.get("layer")
    gap = seen.sites.get(str(owner))
    if gap is None:
        return finding, []
    evidence = {**finding.evidence, "sites": calls, "apart": in_sigmas(gap)}
    if gap.parted.any():
        words = f"; on the frames they differ by {amount(gap)}"
        return replace(finding, severity="error", message=finding.message + words, evidence=evidence), calls
    words = f"; on these frames they do not differ beyond chance ({gap.frames} frames), so it does no harm"
    return replace(finding, severity="info", message=finding.message + words, evidence=evidence), []


def _one_of_each(findings: list[Finding], cause: Cause) -> list[Finding]:
    """One finding of a cause that the file tells layer by layer: the first error, else the first."""
    same = [one for one in findings if one.code == cause.code]
    if len(same) < 2:
        return findings
    kept = next((one for one in same if one.severity == "error"), same[0])
    layers = [one.evidence.get("layer") for one in same]
    told = replace(
        kept,
        message=f"{kept.message}; {len(same)} BatchNorms are used at several places",
        evidence={**kept.evidence, "layers": layers},
    )
    return [told if one is kept else one for one in findings if one.code != cause.code or one is kept]
