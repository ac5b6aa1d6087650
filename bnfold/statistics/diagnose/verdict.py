"""What file and frames come to together: one cause, told once, with the evidence of both.

The order is the catalogue's: what the file itself shows is first. Frames then raise a warning to an error, or
take an error back that they speak against; and what no signature of the file explains gets a cause of its own,
or that of the group where nothing tells the causes apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bnfold.finding import Finding
from bnfold.statistics import causes
from bnfold.statistics.causes import Cause
from bnfold.statistics.diagnose import blame
from bnfold.statistics.diagnose.gap import MARGIN, Gap
from bnfold.statistics.diagnose.passes import Pass
from bnfold.statistics.diagnose.wording import amount, in_sigmas, place, rest
from bnfold.statistics.subject import Subject

Gaps = Mapping[str, Gap]

_RECALIBRATE = "reset the statistics and estimate them anew: bnfold recalibrate"

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

_WITHIN_FIT, _WITHIN_SHARE = 0.8, 0.15

# a stand-in for a dead channel is not what the channel was: half of what its death changed will do
_REVIVED = 0.5


@dataclass(frozen=True)
class Seen:
    """What the frames showed.

    Attributes:
        trained, evaluated: the two passes.
        own: gaps in train mode: the layer's own statistics against what it reads.
        carried: gaps in eval mode: what the layers before did is in them.
        sites: by module with several call sites, how far these are apart.
        revived: the gaps in train mode if some channels, by call, were alive.
    """

    trained: Pass
    evaluated: Pass
    own: Gaps
    carried: Gaps
    sites: Gaps
    revived: Callable[[dict[str, list[int]]], Gaps]

    def owner(self, name: str) -> str:
        """The module of a call."""
        return self.trained.readings[name].owner


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
        return [*findings, _cause(open_, seen, subject)]
    accused = any(one.severity == "error" for one in findings)
    return findings if accused else findings + _accumulated(seen)


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
    gone = blame.explained(seen.own, seen.revived({name: channels for name in calls}), behind)
    if gone < _REVIVED:
        return finding, []
    gap = seen.own[behind[0]]
    words = (
        f"; the statistics behind it are from before: in {behind[0]} {amount(gap)} "
        f"({int(gap.suspect.sum())} of {len(gap.parted)} channels), and with the channel alive {gone:.0%} of that "
        "would be gone"
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
    if estimate is not None and open_:
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


# --- what only the frames show -----------------------------------------------------------------------------


def _cause(calls: list[str], seen: Seen, subject: Subject) -> Finding:
    """The cause of gaps that the file does not explain."""
    readings = [seen.trained.readings[name] for name in seen.own]
    several = [name for name in calls if (gap := seen.sites.get(seen.owner(name))) and gap.parted.any()]
    if several and several[0] == calls[0]:
        sites = seen.trained.calls_of(seen.owner(calls[0]))
        apart = seen.sites[seen.owner(calls[0])]
        return _finding(
            causes.SHARED, calls, seen,
            f"one BatchNorm is used at {len(sites)} places whose data differ by {amount(apart)}",
            "train with a BatchNorm for each place",
            sites=[site.name for site in sites], apart=in_sigmas(apart),
        )  # fmt: skip
    initial = blame.initial_value(readings) or _counted(calls, seen, subject)
    if initial is not None:
        heavy = "" if initial.weight >= 0.3 else "warning"
        finding = _finding(
            causes.UNCONVERGED, calls, seen,
            f"the initial mean 0 and variance 1 still weigh {initial.weight:.2g} in the running averages: that "
            f"explains {1 - initial.left:.0%} of what they are off by",
            "bnfold recalibrate --debias takes the initial value out; bnfold recalibrate --samples measures anew",
            weight=initial.weight, left=initial.left,
        )  # fmt: skip
        return replace(finding, severity="warning") if heavy else finding
    if _weights_changed(calls, seen, subject):
        return _finding(
            causes.STALE, calls, seen,
            "the statistics are those of the other checkpoint, bit for bit, and the weights are not: they were "
            "averaged, pruned or tuned without new statistics",
            _RECALIBRATE,
        )  # fmt: skip
    within = blame.within_batches(readings)
    if within is not None and within.fit >= _WITHIN_FIT and _WITHIN_SHARE <= within.share <= 1.5:
        return _finding(
            causes.TINY_BATCHES, calls, seen,
            f"{within.share:.0%} of the variance between frames is missing from the running variances: training "
            "batches were too small, or their frames too alike",
            f"{_RECALIBRATE} with shuffled frames; for batches of a few frames train with GroupNorm",
            missing=within.share, fit=within.fit,
        )  # fmt: skip
    group = causes.UNREPRESENTATIVE
    return _finding(
        group, calls, seen,
        "the statistics do not describe what these weights make of training-like frames",
        _RECALIBRATE,
        separated_by=group.separated_by,
    )  # fmt: skip


def _counted(calls: list[str], seen: Seen, subject: Subject) -> blame.InitialValue | None:
    """The initial value at the weight that the number of updates tells: little of it is much for a variance that
    is small itself."""
    layers = [subject.layer(seen.owner(name)) for name in calls]
    weights = {layer and subject.initial_weight(layer) for layer in layers}
    weight = weights.pop() if len(weights) == 1 else None
    if not weight:
        return None
    return blame.initial_value([seen.trained.readings[name] for name in calls], weight)


def _finding(cause: Cause, calls: list[str], seen: Seen, what: str, remedy: str, **more: Any) -> Finding:
    name = calls[0]
    gap = seen.own[name]
    channels = gap.channels or [gap.worst]
    return Finding(
        cause.code,
        "error",
        place(name, gap),
        f"{what}; {len(channels)} of {len(gap.parted)} channels are off{rest(calls, len(seen.own))}, the surest "
        f"by {amount(gap)} ({gap.frames} frames)",
        {
            "layer": seen.owner(name),
            "channels": channels,
            "count": len(gap.parted),
            **in_sigmas(gap),
            "layers": blame.layers_of(calls, seen.trained),
            "frames": gap.frames,
            **more,
        },
        remedy,
    )


def _weights_changed(calls: list[str], seen: Seen, subject: Subject) -> bool:
    """Whether another checkpoint has these very statistics, and other weights."""
    other = subject.against
    if other is None:
        return False
    for owner in blame.layers_of(calls, seen.trained):
        here, there = subject.layer(owner), other.layer(owner)
        if here is None or there is None or here.mean is None or there.mean is None:
            return False
        assert here.variance is not None
        same = there.variance is not None and np.array_equal(here.variance, there.variance)
        if not (same and np.array_equal(here.mean, there.mean)):
            return False
    theirs = dict(other.parameters())
    pairs = [(values, theirs[name]) for name, values in subject.parameters() if name in theirs]
    return any(left.shape == right.shape and bool((left != right).any()) for left, right in pairs)


def _accumulated(seen: Seen) -> list[Finding]:
    """Statistics that fit one by one, and not one behind the other."""
    name = blame.first(seen.carried)
    if name is None:
        return []
    gap = seen.carried[name]
    group = causes.UNREPRESENTATIVE
    return [
        Finding(
            group.code,
            "error",
            place(name, gap),
            f"every layer's statistics fit what it reads in train mode, but small errors add up: in eval mode "
            f"{int(gap.suspect.sum())} of {len(gap.parted)} channels are off here, the surest by {amount(gap)} "
            f"({gap.frames} frames)",
            {
                "layer": seen.owner(name),
                "channels": gap.channels or [gap.worst],
                "count": len(gap.parted),
                **in_sigmas(gap),
                "frames": gap.frames,
                "mode": "eval",
                "separated_by": group.separated_by,
            },
            "estimate the statistics layer by layer: bnfold recalibrate --sequential",
        )
    ]
