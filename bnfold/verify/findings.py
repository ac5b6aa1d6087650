"""What a comparison has to say: every finding of verify, one function each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bnfold.finding import Finding
from bnfold.samples import Frames
from bnfold.signature import TensorSpec
from bnfold.verify.accuracy import Accuracy, Score
from bnfold.verify.agreement import Agreement
from bnfold.verify.divergence import Divergence
from bnfold.verify.parity import MIN_FRAMES, Bound, Parity, finite_or_none, is_exact
from bnfold.wording import count

_LARGE_NOISE = 1e-3


def failed(
    result: Parity, different: str | None, divergence: Divergence | None, cause: str = ""
) -> list[Finding]:
    """An output that is further off than rounding explains, or differs in kind (``different`` says how).

    ``cause`` is what to do where a difference is no wonder; else it is a bug of bnfold or of an exporter.
    """
    if result.passed or not math.isfinite(result.tolerance):
        return []  # that nothing can be compared is said once, of the reference
    if result.precision != "fp32":
        return [_too_far(result, different)]
    if different:
        message = f"output {result.output!r} of {result.candidate} in {result.runtime}: {different}"
    elif result.exact:
        message = (
            f"{result.candidate} in {result.runtime} differs from the network in up to "
            f"{result.max_abs_error:.2%} of the elements of output {result.output!r} in a call; rounding "
            f"explains {result.tolerance:.2%} (noise floor {result.noise_floor:.2%}, {result.frames} frames)"
        )
    else:
        message = (
            f"{result.candidate} in {result.runtime} is off by {result.max_abs_error:.3g} in output "
            f"{result.output!r}; rounding explains {result.tolerance:.3g} "
            f"(noise floor {result.noise_floor:.3g}, {result.frames} frames)"
        )
    evidence: dict[str, Any] = result.to_json()
    if divergence is not None:
        message += f"; it parts from the network at {divergence.describe()}"
        evidence["first_divergence"] = divergence.to_json()
    return [
        Finding(
            "BNF-V001",
            "error",
            divergence.layer if divergence else result.output,
            message,
            evidence,
            cause
            or "do not ship it: it computes something else than the network; "
            "report it as a bug, with the model",
        )
    ]


def _too_far(result: Parity, different: str | None) -> Finding:
    """A low-precision file that is off by more than its precision explains."""
    return Finding(
        "BNF-V041",
        "error",
        result.output,
        f"output {result.output!r} of {result.candidate} in {result.runtime}: {different}"
        if different
        else f"{result.candidate} {result.precision} in {result.runtime} is off by "
        f"{result.max_abs_error:.3g} in output {result.output!r}; {result.precision} may cost "
        f"{result.tolerance:.3g}, a share of the output's range ({result.frames} frames)",
        result.to_json(),
        "do not ship it: choose a higher precision, or find out which layers lose most (bnfold inspect)",
    )


def disagrees(one: Agreement, losses: Sequence[Mapping[str, Any]], cause: str = "") -> list[Finding]:
    """A low-precision file that answers otherwise too often; ``losses``: the layers that lose most."""
    if one.passed:
        return []
    what = "frames keep their best class" if one.kind == "top-1" else "values agree"
    message = (
        f"{one.candidate} {one.precision} in {one.runtime}: {one.share:.2%} of {one.counted} {what} in "
        f"output {one.output!r}, below {one.min_agreement:.2%} (signal to noise {one.snr_db:.1f} dB)"
        if one.counted
        else f"{one.candidate} {one.precision} in {one.runtime}: nothing shows whether frames keep their "
        f"best class in output {one.output!r}: none of the {one.ties} random ones has a clear one"
    )
    if losses:
        named = ", ".join(f"{loss['layer']} ({loss['snr_db']:.1f} dB)" for loss in losses[:3])
        message += f"; most is lost in {named}"
    return [
        Finding(
            "BNF-V040",
            "error",
            losses[0]["layer"] if losses else one.output,
            message,
            {**one.to_json(), "losses": [dict(loss) for loss in losses]},
            cause
            or "calibrate on frames like those of the device (--samples), choose a higher precision, or say "
            "what is enough with --min-agreement",
        )
    ]


def about_frames(frames: Frames, compared: int, total: int) -> list[Finding]:
    """What the frames can prove: random ones, few ones, a part of many."""
    findings = []
    if frames.source == "random":
        findings.append(
            Finding(
                "BNF-V008",
                "warning",
                "samples",
                f"parity is proven on {total} seeded random inputs only, unproven on real frames",
                {"frames": total},
                "give real frames: --samples DIR|FILE",
            )
        )
    elif total > frames.given:
        findings.append(
            Finding(
                "BNF-V009",
                "info",
                "samples",
                f"{count(frames.given, 'sample frame')} {'is' if frames.given == 1 else 'are'} few; "
                f"{total - frames.given} seeded random ones were added",
                {"given": frames.given, "random": total - frames.given},
                f"give at least {MIN_FRAMES} frames",
            )
        )
    if compared < total:
        findings.append(
            Finding(
                "BNF-V010",
                "info",
                "samples",
                f"{compared} of {total} frames, evenly spaced, were compared with the float64 reference",
                {"compared": compared, "frames": total},
            )
        )
    return findings


def about_reference(spec: TensorSpec, bound: Bound, apart: float) -> list[Finding]:
    """Whether the reference can be compared with: finite, itself the user's module, and not too noisy."""
    name = spec.name
    numbers = {
        "noise_floor": finite_or_none(bound.noise_floor),
        "largest": finite_or_none(bound.largest),
    }
    if not math.isfinite(bound.largest):
        return [
            Finding(
                "BNF-V002",
                "error",
                name,
                f"output {name!r} of the network itself is not finite, in float64, on at least one frame",
                numbers,
                "look for unusable statistics or a logarithm or division of zero; a mask may use a large "
                "finite number in place of -inf",
            )
        ]
    if not math.isfinite(bound.noise_floor):
        return [
            Finding(
                "BNF-V003",
                "error",
                name,
                f"output {name!r} is finite in float64 but not in the network's own precision",
                numbers,
                "the network overflows float32: check the population statistics and the input's scale",
            )
        ]
    findings = []
    if not bound.holds(apart):
        findings.append(
            Finding(
                "BNF-V004",
                "error",
                name,
                f"the captured graph is not the module: they are {apart:.3g} apart in output {name!r} "
                f"(rounding explains {bound.tolerance:.3g})",
                {**numbers, "distance": finite_or_none(apart)},
                "forward depends on something that is not among its inputs (a random number, a counter, the "
                "batch, a global); make it an input or a constant",
            )
        )
    scale = 1.0 if is_exact(spec.dtype) else bound.largest
    if scale > 0 and bound.noise_floor / scale > _LARGE_NOISE:
        findings.append(
            Finding(
                "BNF-V005",
                "warning",
                name,
                f"rounding alone changes output {name!r} by {bound.noise_floor:.3g} "
                f"({bound.noise_floor / scale:.1%} of its largest value); parity proves little here",
                numbers,
                "look for a channel whose variance vanishes, or compare an output before the sensitive step",
            )
        )
    return findings


def not_taken(why: str) -> Finding:
    """Labels or a metric that lead to no score."""
    return Finding(
        "BNF-V013",
        "info",
        "labels",
        f"accuracy is not taken: {why}",
        {},
        "give labelled samples, and --metric FILE.py:NAME where the answer is not the largest of the scores",
    )


def changed(score: Score) -> list[Finding]:
    """Frames whose answer is another, though the values agree within rounding."""
    if not score.changed:
        return []
    return [
        Finding(
            "BNF-V011",
            "info",
            "labels",
            f"{score.candidate} in {score.runtime} answers otherwise than the network on {score.changed} "
            f"labelled frames",
            score.to_json(),
            "where parity passed, these frames are ties within rounding",
        )
    ]


def chance(accuracy: Accuracy, outputs: tuple[TensorSpec, ...]) -> list[Finding]:
    """A network that guesses: most often frames prepared otherwise than in training."""
    classes = next((spec.shape[1] or 0 for spec in outputs if spec.name == accuracy.output), 0)
    if not classes or accuracy.frames < 50 or accuracy.before.value > 1.5 / classes:
        return []
    return [
        Finding(
            "BNF-V012",
            "warning",
            "labels",
            f"the network itself gets {accuracy.before.value:.1%} of {accuracy.frames} labelled frames "
            f"right; chance gets {1 / classes:.1%}",
            accuracy.before.to_json(),
            "check the normalisation (--scale, --mean, --std, --color) and the order of the labels",
        )
    ]
