"""Diagnose: a network and frames -> what is wrong with its population statistics, where, and what to do.

collect     the frames that can be used, in batches
passes      the same frames in train mode and in eval mode; frames: statistics whose unit is the frame
gap         stored statistics against frames, beyond chance
blame       which signature the gaps have
verdict     what file and frames come to together; unexplained: what the frames alone show
finiteness  the first operator whose output is not finite; reasons: and why
dependence  whether an answer depends on the rest of the batch
shift       deployment frames against training-like ones
histograms  what the worst channels give in both modes, on request
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from bnfold import finding as f
from bnfold.capture.failures import definition, user_line_of
from bnfold.capture.isolation import in_eval_mode
from bnfold.errors import BnfoldError, CaptureError
from bnfold.finding import Finding
from bnfold.statistics import causes
from bnfold.statistics.audit import examine_all, in_order
from bnfold.statistics.audit import owner as owner_of
from bnfold.statistics.batches import Batches, Unusable
from bnfold.statistics.diagnose import blame, gap, passes
from bnfold.statistics.diagnose.collect import Collected, collect
from bnfold.statistics.diagnose.dependence import dependence
from bnfold.statistics.diagnose.finiteness import Breakdown, breakdown
from bnfold.statistics.diagnose.gap import MIN_FRAMES, TRAIN_BATCH, Gap
from bnfold.statistics.diagnose.histograms import Histogram, histograms, worst
from bnfold.statistics.diagnose.passes import Pass
from bnfold.statistics.diagnose.seen import Seen
from bnfold.statistics.diagnose.shift import shift_finding, shifts
from bnfold.statistics.diagnose.tell import frames_left_out, not_compared, too_few, with_breakdown
from bnfold.statistics.diagnose.verdict import settle
from bnfold.statistics.subject import Subject
from bnfold.wording import first_line

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Diagnosis:
    """The whole picture.

    Attributes:
        findings: errors first, then in execution order, origin before consequence: act on the first.
        frames, deployment_frames: how many were looked at.
        trained: the pass in train mode; None where there are too few frames for it.
        evaluated: the pass in eval mode; None where the network fails on its frames.
        own: gaps in train mode, by call: the layer's own statistics against what it reads.
        carried: gaps in eval mode: what the layers before did is in them.
        shifted: of the deployment frames against the others; empty where they were not compared.
        breakdown: how an output came not to be finite; None where all are finite.
        exploding: the first BatchNorm call whose output is over 10 times larger in eval mode than in train.
        unusable: the frames that were left out.
        histograms: of the worst channels; empty unless they were asked for.
    """

    findings: list[Finding]
    frames: int = 0
    deployment_frames: int = 0
    trained: Pass | None = None
    evaluated: Pass | None = None
    own: Mapping[str, Gap] = field(default_factory=dict)
    carried: Mapping[str, Gap] = field(default_factory=dict)
    shifted: Mapping[str, Gap] = field(default_factory=dict)
    breakdown: Breakdown | None = None
    exploding: str | None = None
    unusable: Sequence[Unusable] = ()
    histograms: Sequence[Histogram] = ()

    @property
    def passed(self) -> bool:
        """Whether no finding is an error."""
        return f.passed(self.findings)

    def to_json(self, *, channels: bool = False) -> dict[str, Any]:
        """The document of ``bnfold diagnose --format json``; with ``channels`` every number by channel."""
        from bnfold.statistics.diagnose.document import document

        return document(self, channels=channels)


def diagnose(
    module: nn.Module,
    batches: Any,
    *,
    deployment: Any = None,
    against: Any = None,
    steps: int | None = None,
    train_batch: int = TRAIN_BATCH,
) -> list[Finding]:
    """Find out why a network that trained well is wrong in eval mode.

    The same frames run in eval mode and with the BatchNorms in train mode; the first layer and channel where
    the two part beyond what chance explains is named, with its cause: the codes are those of the catalogue
    (docs/diagnose.md). Frames are the unit of every test, the error over all channels of all layers is held
    at 1 %, and a gap below a quarter of a standard deviation is let pass. Fewer than 16 frames are not
    judged by, and a note (BNF-A040) says so.

    Args:
        module: in any mode; it is not changed.
        batches: frames like those of the training, best some that it has not seen: an iterable of tensors,
            tuples or lists of forward's arguments, or dictionaries by name, as a DataLoader gives them; the
            first axis counts the frames. Read once.
        deployment: frames from where the network is used, likewise. Compared with the others where the
            statistics fit those, so that wrong statistics are not taken for other data.
        against: another checkpoint of the network (a module or a state dict): the one it began from.
        steps: forward passes of the training, where known.
        train_batch: frames in a batch of the training; a checkpoint does not say it.

    Returns:
        Findings by severity, then in execution order, origin before consequence. A sound network has no
        error.

    Raises:
        UsageError: batches that are none (BNF-U080), or that do not fit forward (BNF-U082).
        CaptureError: forward fails on the frames (BNF-C004), or the module cannot be copied (BNF-C012).

    Method: population statistics as in Ioffe and Szegedy (2015); tests by frame as in docs/diagnose.md.
    """
    subject = Subject.of(module, steps=steps, against=None if against is None else Subject.of(against))
    return examine(module, batches, deployment=deployment, subject=subject, train_batch=train_batch).findings


def examine(
    module: nn.Module,
    batches: Any,
    *,
    deployment: Any = None,
    subject: Subject | None = None,
    train_batch: int = TRAIN_BATCH,
    progress: Progress | None = None,
    worst_channels: int = 0,
) -> Diagnosis:
    """As `diagnose`, with the numbers of every layer.

    Args:
        subject: what the module's file says, with another checkpoint where there is one; default: of the
            module alone.
        progress: called with the name of each stage as it begins.
        worst_channels: of how many channels to keep histograms, in train and in eval mode: the ones with the
            largest gaps. Costs two more passes.
    """
    tell = progress or _silent
    subject = subject or Subject.of(module)
    private = in_eval_mode(module)
    tell("reading frames")
    given = collect(Batches(batches, private))
    notes = frames_left_out(given)
    if not given.frames:
        return Diagnosis(f.by_severity(_audit(subject, [])[0] + notes), unusable=given.unusable)
    tell("does an answer depend on its batch?")
    dependent = _dependence(private, given)
    if any("raised" in one.evidence for one in dependent) and given.smallest < 2:
        said, _ = _audit(subject, [])
        notes.append(too_few(given.frames, given.smallest))
        findings = f.by_severity([*dependent, *_without_twins(said, dependent), *notes])
        return Diagnosis(findings, given.frames, unusable=given.unusable)
    tell(f"{given.frames} frames in eval mode")
    evaluated = passes.run(private, given.batches, "eval")
    said, subject = _audit(subject, list(evaluated.readings))
    said = _without_twins(said, dependent)
    tell(f"{given.frames} frames in train mode")
    trained = _trained(private, given)
    broken = _breakdown(private, given, evaluated)
    result = Diagnosis([], given.frames, 0, trained, evaluated, breakdown=broken, unusable=given.unusable)
    if trained is None or given.frames < MIN_FRAMES:
        notes.append(too_few(given.frames, given.smallest))
        findings = with_breakdown(said + dependent, broken, None)
    else:
        result = replace(result, **_judged(trained, evaluated, train_batch))

        def revived(channels: dict[str, list[int]], donor: int) -> dict[str, Gap]:
            tell("the frames with dead channels alive")
            alive = passes.run(private, given.batches, "train", revived=channels, donor=donor)
            return gap.gaps(alive, train_batch=train_batch)

        seen = Seen(trained, evaluated, result.own, result.carried, blame.sites(trained), revived)
        findings = with_breakdown(settle(said, seen, subject) + dependent, broken, result)
    result = replace(result, findings=findings)
    if deployment is not None:
        result, more = _deployed(private, deployment, result, tell)
        findings = [*result.findings, *more]
    if worst_channels:
        tell("the worst channels")
        counted = histograms(private, given.batches, worst(result.own, worst_channels))
        result = replace(result, histograms=counted)
    return replace(result, findings=_ordered(findings + notes, evaluated))


def _dependence(module: nn.Module, given: Collected) -> list[Finding]:
    """As `dependence`.

    Raises:
        CaptureError: forward fails on the frames, alone and in a batch (BNF-C004).
    """
    try:
        return dependence(module, given.batches[0])
    except BnfoldError:
        raise
    except Exception as error:  # the user's forward, on the user's frames
        raise CaptureError(
            "BNF-C004",
            f"forward failed on the frames: {first_line(error)}",
            where=user_line_of(error) or definition(module.forward),
            fix="give frames as forward takes them; the traceback is shown with --traceback",
        ) from error


def _audit(subject: Subject, calls: list[str]) -> tuple[list[Finding], Subject]:
    """What the file shows of the layers that run, in execution order."""
    subject = in_order(subject, calls)
    if calls:
        run = {owner_of(call) for call in calls}
        layers = [
            one for one in subject.layers if not one.known or not run.isdisjoint((one.name, *one.aliases))
        ]
        subject = replace(subject, layers=tuple(layers))
    return examine_all([subject]).findings, subject


def _without_twins(said: list[Finding], dependent: list[Finding]) -> list[Finding]:
    """Batch statistics in use are told once, with what they do to an answer where that was seen."""
    seen = any(one.code == causes.BATCH_DEPENDENT.code for one in dependent)
    return [one for one in said if not (seen and one.code == causes.BATCH_DEPENDENT.code)]


def _trained(module: nn.Module, given: Collected) -> Pass | None:
    """The pass in train mode; None where frames cannot be put into batches."""
    if given.smallest < 2:
        return None
    return passes.run(module, given.batches, "train")


def _breakdown(module: nn.Module, given: Collected, evaluated: Pass) -> Breakdown | None:
    return None if evaluated.is_finite else breakdown(module, given.batches)


def _judged(trained: Pass, evaluated: Pass, train_batch: int) -> dict[str, Any]:
    in_use = {name for name, reading in evaluated.readings.items() if not reading.uses_batch}
    own = gap.gaps(trained, train_batch=train_batch)
    carried = gap.gaps(evaluated, train_batch=train_batch, margin=2 * gap.MARGIN)
    return {
        "own": {name: one for name, one in own.items() if name in in_use},
        "carried": {name: one for name, one in carried.items() if name in in_use},
        "exploding": blame.growth(evaluated, trained),
    }


def _deployed(
    module: nn.Module, deployment: Any, result: Diagnosis, tell: Progress
) -> tuple[Diagnosis, list[Finding]]:
    """The deployment frames against the others, where the statistics fit those."""
    given = collect(Batches(deployment, module))
    result = replace(result, deployment_frames=given.frames)
    notes = frames_left_out(given, "deployment ")
    enough = min(given.frames, result.frames) >= MIN_FRAMES and result.trained is not None
    if not result.passed or not enough:
        return result, [*notes, not_compared(result, given.frames)]
    tell(f"{given.frames} deployment frames")
    deployed = passes.run(module, given.batches, "eval")
    assert result.evaluated is not None
    shifted = shifts(result.evaluated, deployed)
    return replace(result, shifted=shifted), [*notes, *shift_finding(shifted, result.evaluated, deployed)]


def _ordered(findings: Iterable[Finding], evaluated: Pass) -> list[Finding]:
    """By severity, then by the layer's place in execution; what is about no layer comes first."""
    places = {owner_of(name): number for number, name in reversed(list(enumerate(evaluated.readings)))}

    def place(finding: Finding) -> int:
        layer = finding.evidence.get("layer")
        if layer is None:
            layer = owner_of(finding.where)
        return places.get(str(layer), -1 if finding.code != causes.BATCH_DEPENDENT.code else 0)

    return f.by_severity(sorted(findings, key=place))


def _silent(stage: str) -> None:
    return None


__all__ = ["Diagnosis", "diagnose", "examine"]
