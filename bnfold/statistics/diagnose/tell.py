"""Findings about the frames and about values that are not finite."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bnfold.finding import Finding
from bnfold.statistics import causes
from bnfold.statistics.diagnose.collect import Collected
from bnfold.statistics.diagnose.finiteness import Breakdown
from bnfold.statistics.diagnose.gap import MIN_FRAMES
from bnfold.wording import count

if TYPE_CHECKING:
    from bnfold.statistics.diagnose import Diagnosis

_SHOWN = 10


def frames_left_out(given: Collected, kind: str = "") -> list[Finding]:
    """BNF-A042 for the frames that no statistics survive: an error where nothing is left to judge by."""
    if not given.unusable:
        return []
    first = given.unusable[0]
    frames = len({(one.batch, one.index) for one in given.unusable})
    left = "left out" if given.frames else "left out, and none is left"
    return [
        Finding(
            causes.LEFT_OUT.code,
            "warning" if given.frames else "error",
            f"{kind}frames",
            f"{count(frames, f'{kind}frame')} {left}: {first.describe()}",
            {"frames": [one.to_json() for one in given.unusable[:_SHOWN]], "count": frames},
            "repair these frames or take them out: in training one of them is enough to spoil the statistics",
        )
    ]


def too_few(frames: int, smallest: int) -> Finding:
    """BNF-A040: nothing is judged by so few frames."""
    if frames < MIN_FRAMES:
        what = f"{count(frames, 'frame')} are too few to judge statistics by: {MIN_FRAMES} are the least"
        remedy = "give more frames that are like those of the training; 64 to 1,000 are a good number"
    else:
        what = (
            f"the frames make batches of {smallest}: they differ in shape, or their first axes do not count "
            "them, "
            "so train mode cannot be imitated"
        )
        remedy = "give frames of one shape, with the frames along the first axis"
    evidence = {"frames": frames, "smallest_batch": smallest, "least": MIN_FRAMES}
    return Finding(causes.TOO_FEW.code, "info", "frames", what, evidence, remedy)


def not_compared(result: Diagnosis, deployed: int) -> Finding:
    """BNF-A044: why the deployment frames were not compared."""
    if not result.passed:
        what = (
            "the deployment frames were not compared: the network is wrong on the training-like ones already"
        )
        remedy = "repair what the errors say, then diagnose again; do not adapt statistics that are wrong"
    else:
        what = (
            f"the deployment frames were not compared: {deployed} of them and {result.frames} training-like "
            "ones, "
            f"{MIN_FRAMES} of each are the least"
        )
        remedy = "give more frames"
    evidence = {"frames": result.frames, "deployment_frames": deployed}
    return Finding(causes.NOT_COMPARED.code, "info", "deployment", what, evidence, remedy)


def with_breakdown(
    findings: list[Finding], broken: Breakdown | None, result: Diagnosis | None
) -> list[Finding]:
    """The findings with the first value that is not finite at the one that explains it, or one of its own."""
    if broken is None:
        return findings
    origin = broken.origin
    layers = [origin.module, broken.source.rpartition(".")[0]]
    exploding = result.exploding if result is not None else None
    owner = exploding.partition("#")[0] if exploding else None
    at = next((i for i, one in enumerate(findings) if one.evidence.get("layer") in layers), None)
    if at is None and owner is not None:
        at = next((i for i, one in enumerate(findings) if owner in _layers(one)), None)
    if at is None:
        at = next((i for i, one in enumerate(findings) if one.severity == "error"), None)
    source = origin.module or "forward"
    words = f"the first value that is not finite comes from {source} ({origin.operator}: {origin.why})"
    if exploding and owner != origin.module:
        words += f"; outputs grow from {exploding} on"
    evidence = {"breakdown": broken.to_json(), "exploding": exploding}
    if at is not None:
        one = findings[at]
        told = replace(one, message=f"{one.message}; {words}", evidence={**one.evidence, **evidence})
        return [*findings[:at], told, *findings[at + 1 :]]
    own = Finding(
        causes.BROKEN.code,
        "error",
        origin.module or "forward",
        f"an output is not finite in eval mode: {words}; stored statistics do not explain it",
        {"layer": origin.module, "channels": list(origin.channels), "frame": broken.frame, **evidence},
        "guard the operator (a floor under a logarithm, a root or a divisor), or scale its input",
    )
    return [own, *findings]


def _layers(finding: Finding) -> list[str]:
    layers = finding.evidence.get("layers") or [finding.evidence.get("layer")]
    return [str(layer) for layer in layers if layer is not None]
