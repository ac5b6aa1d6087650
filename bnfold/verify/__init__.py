"""Does a candidate compute what the reference computes? Parity against a measured noise floor.

:func:`verify` gives the numbers, :func:`compare` the whole picture: findings, the first layer that diverges,
whether answers depend on the batch, accuracy before and after.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bnfold import finding as f
from bnfold.capture import Captured, capture
from bnfold.errors import CaptureError, UsageError, VerifyError
from bnfold.finding import Finding
from bnfold.fold import FoldedModule
from bnfold.normalisation import assumed, by_input
from bnfold.samples import Frames, frames_of
from bnfold.signature import TensorSpec
from bnfold.verify import batch, randomness, yardstick
from bnfold.verify.accuracy import Accuracy, Metric, load_metric
from bnfold.verify.agreement import Agreement
from bnfold.verify.candidates import (
    Candidate,
    TorchCandidate,
    module_call,
    original,
    single_thread,
    twin,
)
from bnfold.verify.divergence import Divergence, first_divergence
from bnfold.verify.guess import guess
from bnfold.verify.parity import MIN_FRAMES, Bound, Parity
from bnfold.verify.sides import Side, arguments, candidates_of, captured_of, side, takes_pixels
from bnfold.verify.trace import divergence_of
from bnfold.verify.yardstick import Measurement, Yardstick

CHANGED = "BNF-M007"
"""The finding of an artifact whose bytes were changed after it was written."""

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins."""


@dataclass(frozen=True)
class Comparison:
    """The whole picture.

    Attributes:
        parity: one per candidate, interpreter and output.
        findings: errors first.
        accuracy: on labelled frames; None without labels.
        agreement: one per output and interpreter where a side is a low-precision artifact.
    """

    parity: list[Parity]
    findings: list[Finding]
    accuracy: Accuracy | None
    agreement: list[Agreement] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every parity holds and no finding is an error."""
        return all(result.passed for result in self.parity) and f.passed(self.findings)

    def to_json(self) -> dict[str, Any]:
        """The document of ``bnfold verify --format json``."""
        return {
            "schema": 1,
            "passed": self.passed,
            "parity": [result.to_json() for result in self.parity],
            "findings": [finding.to_json() for finding in self.findings],
            "accuracy": self.accuracy.to_json() if self.accuracy else None,
            "agreement": [one.to_json() for one in self.agreement],
        }


def verify(reference: Any, candidate: Any, samples: Any) -> list[Parity]:
    """Compare a candidate with a reference on the same frames, in every interpreter at hand.

    Against a torch reference the bound is measured: the larger of 8 times the noise floor (the reference in
    its own precision against itself in float64, on these frames) and 4 float32 ulp of max|y|. Between two
    artifacts the noise floor is the one recorded in the reference's manifest. A low-precision artifact is
    held to the gate that its manifest records: a share of each output's range, and how many answers may
    change.

    Args:
        reference: an nn.Module, a FoldResult (then: the network before folding), the path of an artifact, or
            an open one.
        candidate: likewise (a FoldResult: the folded network).
        samples: an array (first axis: frames), a dictionary of arrays by input name, a list of frames, a path
            or a FrameSource. Floating arrays are model inputs; uint8 arrays are frames, prepared as an
            artifact's manifest says, or without one as :func:`bnfold.convert` does by default. Fewer than
            16 are filled up with seeded random inputs.

    Returns:
        One per interpreter and output. An artifact whose bytes were changed after it was written is compared
        too, and a warning (BNF-M007) says that it was: what was proven at its conversion holds no longer.

    Raises:
        VerifyError: what cannot be compared, or samples that do not fit.
        CaptureError: a reference that torch.export cannot capture.
        ArtifactError, PlatformError: an artifact that cannot be opened.
    """
    comparison = compare(reference, candidate, samples)
    for found in comparison.findings:
        if found.code == CHANGED:
            warnings.warn(f"[{found.code}] {found.where}: {found.message}", UserWarning, stacklevel=2)
    return comparison.parity


def compare(
    reference: Any,
    candidate: Any,
    samples: Any,
    *,
    metric: Metric | None = None,
    inputs: tuple[TensorSpec, ...] | None = None,
    normalisation: Mapping[str, Any] | None = None,
    sha256: tuple[str | None, str | None] = (None, None),
    progress: Progress | None = None,
) -> Comparison:
    """Like :func:`verify`, with findings and accuracy.

    Args:
        reference, candidate, samples: as for :func:`verify`. Samples with labels (key ``labels`` of a
            dictionary or an ``.npz`` file) give accuracy.
        metric: ``metric(outputs, labels) -> float`` in place of top-1: outputs by name, stacked over frames.
        inputs: what two plain modules take; None: it is told from the samples. An artifact says it itself.
        normalisation: how a uint8 frame is prepared where no artifact says it, as for :func:`bnfold.convert`.
        sha256: of the checkpoints that reference and candidate were loaded from.
        progress: called with the name of each stage as it begins.
    """
    tell = progress or _silent
    left, right = (side(thing, digest) for thing, digest in zip((reference, candidate), sha256, strict=True))
    with single_thread():
        taken = left.inputs() or right.inputs() or inputs
        guessed = None
        if taken is None:
            assert left.module is not None
            guessed = guess(left.module, samples, (normalisation or {}).get("color"))
            taken = guessed.inputs
        _same_inputs(left, right)
        left, right = takes_pixels(left, right), takes_pixels(right, left)
        prepared: dict[str, Any]
        if left.artifacts or right.artifacts:
            _not_said_twice(inputs, normalisation)
            prepared = left.normalisation() | right.normalisation()
        else:
            prepared = by_input(normalisation, taken)
        frames = frames_of(samples, taken, prepared, at_least=MIN_FRAMES)
        example = {
            which: _example(which, taken, frames, (left, right))
            for which in (left, right)
            if which.module is not None
        }
        try:
            captured = captured_of(left, example.get(left))
        except CaptureError as error:
            if guessed is None or error.code != "BNF-C004":
                raise
            raise guessed.refused(error) from error
        said = [*left.findings, *right.findings, *(guessed.findings() if guessed else [])]
        if frames.images and not (left.artifacts or right.artifacts):
            said += assumed(normalisation, prepared)
        said += randomness.findings(captured) if captured is not None else []
        tell("computing the reference")
        measure = _yardstick(left, right, captured, example.get(left), frames, metric)
        said.extend(measure.findings)
        for which in (left, right):
            measure.kinds = {**measure.kinds, **which.kinds()}
        if captured is not None and left.module is not None and not isinstance(left.module, FoldedModule):
            module = _own(left.module, example[left], captured)
            said.extend(batch.check(module, captured.inputs, captured.outputs, frames, measure.bounds))
        parity: list[Parity] = []
        agreement: list[Agreement] = []
        for one in candidates_of(right, example.get(right), measure.outputs):
            tell(f"comparing {one.kind} in {one.runtime}")
            result = measure.measure(one)
            parity.extend(result.parity)
            agreement.extend(result.agreement)
            divergence = _where(captured, one, right, example.get(right), result)
            losses = one.losses or [loss for side in left.artifacts[:1] for loss in side.losses]
            said.extend(result.findings(divergence, _cause(left, right), losses))
    return Comparison(parity, f.by_severity(said), measure.accuracy, agreement)


def _yardstick(
    left: Side,
    right: Side,
    captured: Captured | None,
    example: tuple[Any, ...] | None,
    frames: Frames,
    metric: Metric | None,
) -> Yardstick:
    if captured is not None:
        module = None
        if left.module is not None and example is not None:
            module = _own(left.module, example, captured)
        exact, rounded = twin(captured), original(captured)
        return yardstick.build(
            exact,
            rounded,
            captured.outputs,
            frames,
            metric=metric,
            module=module,
            random=randomness.drawing(captured),
        )
    model = left.artifacts[0]
    outputs = model.model.outputs
    floor = left.noise_floor() or right.noise_floor()
    missing = [spec.name for spec in outputs if spec.name not in floor]
    if missing:
        raise VerifyError(
            "BNF-V033",
            f"no noise floor is recorded for output {missing[0]!r}, so there is nothing to hold an error to",
            where="the reference's manifest",
            fix="compare with the checkpoint, or convert again",
        )
    return yardstick.build(model, model, outputs, frames, noise_floor=floor, metric=metric, gate=left.gate)


def _own(module: nn.Module, example: tuple[Any, ...], captured: Captured) -> TorchCandidate:
    return TorchCandidate("torch", module_call(module, example), captured.inputs, captured.outputs)


def _example(which: Side, inputs: Any, frames: Frames, sides: tuple[Side, ...]) -> tuple[Any, ...]:
    assert which.module is not None
    return arguments(which.module, inputs, frames.first(), sides)


def _not_said_twice(inputs: Any, normalisation: Any) -> None:
    if inputs is not None or normalisation is not None:
        raise UsageError(
            "BNF-U012",
            "an artifact says itself what it takes and how its frames are prepared",
            where="inputs or normalisation",
            fix="leave them out",
        )


def _same_inputs(left: Side, right: Side) -> None:
    ours, theirs = left.inputs(), right.inputs()
    if ours is None or theirs is None:
        return
    if {spec.name for spec in ours} != {spec.name for spec in theirs}:
        raise VerifyError(
            "BNF-V034",
            f"the reference takes {', '.join(spec.describe() for spec in ours)}; "
            f"the candidate takes {', '.join(spec.describe() for spec in theirs)}",
            where="inputs",
            fix="compare two forms of one network",
        )


def _cause(left: Side, right: Side) -> str:
    """What to do about a difference that needs no bug to explain it; empty where nothing does."""
    for which in (left, right):
        if which.findings:
            return f"{which.findings[0].where} was changed after it was written: convert again"
    if left.sha256 is None or right.sha256 is None or left.sha256 == right.sha256:
        return ""
    this, other = right.sha256[:12], left.sha256[:12]
    kinds = {bool(left.artifacts), bool(right.artifacts)}
    if kinds == {True, False}:
        made, given = (other, this) if left.artifacts else (this, other)
        return (
            f"the artifact was made from another checkpoint (sha256 {made}…) than the one given ({given}…): "
            "compare it with that one, or convert again"
        )
    return f"the two come from different checkpoints (sha256 {other}… and {this}…)"


def _where(
    captured: Captured | None,
    one: Candidate,
    right: Side,
    example: tuple[Any, ...] | None,
    result: Measurement,
) -> Divergence | None:
    if captured is None or result.passed or result.worst is None or one.gate is not None:
        return None
    if isinstance(one, TorchCandidate) and one.kind == "torch" and right.module is not None and example:
        return first_divergence(captured, capture(right.module, example).body, result.worst)
    return divergence_of(captured, one, result.worst)


def _silent(stage: str) -> None:
    return None


__all__ = [
    "MIN_FRAMES",
    "Accuracy",
    "Agreement",
    "Bound",
    "Comparison",
    "Divergence",
    "Frames",
    "Measurement",
    "Parity",
    "Progress",
    "Yardstick",
    "batch",
    "compare",
    "first_divergence",
    "load_metric",
    "verify",
]
