"""The reference on a set of frames, computed once, and what every candidate is measured against."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.finding import Finding
from bnfold.quantize.gate import Gate
from bnfold.samples import Frames, Inputs
from bnfold.signature import TensorSpec
from bnfold.verify import findings, parity, randomness
from bnfold.verify.accuracy import Accuracy, Judge, Metric, judge
from bnfold.verify.agreement import Agreement, Kind, Tally, is_scores
from bnfold.verify.candidates import Candidate
from bnfold.verify.divergence import Divergence
from bnfold.verify.parity import Bound, Parity

Array = NDArray[Any]
_MAX_FRAMES = 1024
_MAX_BYTES = 2**30


@dataclass
class Yardstick:
    """Reference outputs, the bound of each output, and the labelled frames' score before.

    Attributes:
        frames: the inputs.
        outputs: what is compared.
        bounds: by output name.
        findings: what the reference itself says: not finite, overflowing, too noisy to prove much.
        accuracy: grows with every candidate measured; None without labels.
        usable: whether anything can be compared.
        gate: of a reference that is a low-precision artifact itself.
        kinds: what is known of outputs, see :mod:`bnfold.verify.kinds`.
    """

    frames: Frames
    outputs: tuple[TensorSpec, ...]
    bounds: dict[str, Bound]
    findings: list[Finding]
    judge: Judge | None
    accuracy: Accuracy | None
    stride: int
    _expected: list[dict[str, Array]] = field(repr=False)
    _kept: list[dict[str, Array]] = field(repr=False)
    gate: Gate | None = None
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        return all(math.isfinite(bound.tolerance) for bound in self.bounds.values())

    @property
    def compared(self) -> int:
        """How many frames are compared."""
        return _frames_in(self.frames, self.stride)

    def calls(self) -> Iterator[tuple[Inputs, dict[str, Array] | None, bool]]:
        """Each call's inputs, its reference outputs if it is compared, and whether it is judged by labels."""
        for i, inputs in enumerate(self.frames):
            expected = self._expected[i // self.stride] if i % self.stride == 0 else None
            judged = self.judge is not None and i * self.frames.size < self.frames.given
            if expected is not None or judged:
                yield inputs, expected, judged

    def measure(self, candidate: Candidate) -> Measurement:
        """Compare one candidate on every frame, and score it where frames are labelled."""
        errors = {spec.name: 0.0 for spec in self.outputs}
        worst: tuple[float, Inputs | None] = (-1.0, None)
        kept: list[dict[str, Array]] = []
        different: dict[str, str] = {}
        gate = candidate.gate or self.gate
        bounds = {name: bound.under(gate) for name, bound in self.bounds.items()}
        tallies = self._tallies(gate)
        for inputs, expected, judged in self.calls():
            actual = candidate.run(inputs)
            if expected is not None:
                missing = [spec.name for spec in self.outputs if spec.name not in actual]
                for name in missing:
                    different[name] = f"there is no output of this name, only {', '.join(actual)}"
                    errors[name] = math.inf
                for spec in self.outputs:
                    if spec.name in missing:
                        continue
                    here = _error(actual[spec.name], expected[spec.name], spec, different)
                    errors[spec.name] = max(errors[spec.name], here)
                    if spec.name in tallies:
                        tallies[spec.name].add(actual[spec.name], expected[spec.name])
                    weight = _share(bounds[spec.name], here)
                    if weight > worst[0]:
                        worst = (weight, inputs)
            if judged and self.judge is not None and not different:
                kept.append(self.judge.keep(actual))
        agreement = [
            tally.result(candidate.kind, candidate.runtime, candidate.role) for tally in tallies.values()
        ]
        for one in agreement:  # one wrong answer is all of an argmax's call: of integers the share counts
            if bounds[one.output].exact and math.isfinite(errors[one.output]) and one.counted:
                errors[one.output] = 1 - one.share
        results = [
            self._parity(candidate, spec.name, errors[spec.name], bounds[spec.name]) for spec in self.outputs
        ]
        said: list[Finding] = []
        if self.judge is not None and self.accuracy is not None and kept and not different:
            score = self.judge.score(kept, candidate.kind, candidate.runtime, self._kept)
            self.accuracy.after.append(score)
            if gate is None:  # else the agreement says so, and they need be no ties
                said.extend(findings.changed(score))
        return Measurement(results, different, said, worst[1], agreement)

    def kind(self, spec: TensorSpec) -> Kind:
        """What a low-precision candidate must keep of an output."""
        judged = self.judge.output if self.judge is not None else None
        scores = is_scores(spec, self.frames.size, judged)
        return self.kinds.get(spec.name, "top-1" if scores else "values")

    def _tallies(self, gate: Gate | None) -> dict[str, Tally]:
        """What counts the agreement of each output; nothing for float32."""
        if gate is None:
            return {}
        return {
            spec.name: Tally(
                spec,
                gate,
                self.bounds[spec.name].spread,
                scores=self.kind(spec) == "top-1",
                ties=self.frames.source == "random",
            )
            for spec in self.outputs
        }

    def _parity(self, candidate: Candidate, name: str, error: float, bound: Bound) -> Parity:
        return Parity(
            candidate=candidate.kind,
            runtime=candidate.runtime,
            output=name,
            frames=self.compared,
            frames_source=self.frames.source,
            max_abs_error=error,
            noise_floor=bound.noise_floor,
            tolerance=bound.tolerance,
            passed=bound.holds(error),
            role=candidate.role,
            precision=candidate.gate.precision if candidate.gate else "fp32",
            exact=bound.exact,
        )


@dataclass(frozen=True)
class Measurement:
    """One candidate against the yardstick.

    Attributes:
        parity: one per output.
        different: by output, what differs in kind: a missing output, a shape, a dtype.
        remarks: what else was seen.
        worst: the inputs where it was furthest off, in units of the tolerance.
        agreement: one per output of a low-precision candidate.
    """

    parity: list[Parity]
    different: dict[str, str]
    remarks: list[Finding]
    worst: Inputs | None
    agreement: list[Agreement] = field(default_factory=list)

    def findings(
        self, divergence: Divergence | None = None, cause: str = "", losses: Sequence[Mapping[str, Any]] = ()
    ) -> list[Finding]:
        """An error for each output that failed, naming the first layer that diverges where it is known.

        ``cause`` is what to do where a difference is no wonder; ``losses`` are the layers where a
        low-precision candidate loses most.
        """
        counted = {one.output for one in self.agreement}
        failures = [
            found
            for result in self.parity
            # how many integers are equal is what the agreement says
            if not (result.exact and result.output in counted) or result.output in self.different
            for found in findings.failed(result, self.different.get(result.output), divergence, cause)
        ]
        failures += [found for one in self.agreement for found in findings.disagrees(one, losses, cause)]
        return failures + self.remarks

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.parity) and all(one.passed for one in self.agreement)


def build(
    reference: Candidate,
    original: Candidate,
    outputs: tuple[TensorSpec, ...],
    frames: Frames,
    *,
    noise_floor: Mapping[str, float] | None = None,
    metric: Metric | None = None,
    module: Candidate | None = None,
    random: Collection[str] = (),
    gate: Gate | None = None,
) -> Yardstick:
    """Run the reference and the original on every frame.

    Args:
        reference: the network in float64.
        original: the same network in its own precision; its distance from the reference is the noise floor,
            and its answers on labelled frames are the score before.
        outputs: what is compared.
        frames: the inputs, with labels if there are any.
        noise_floor: by output; used in place of the measured one, where the reference is itself an artifact.
        metric: the user's own, instead of top-1.
        module: the user's module itself, as a third opinion: a graph that was captured wrongly would agree
            with its own float64 twin.
        random: outputs that are known to be random: nothing can be said of them.
        gate: of a reference that is a low-precision artifact.

    Raises:
        VerifyError: labels that do not fit (BNF-V026), a metric that fails (BNF-V027).
    """
    stride = _stride(frames, outputs)
    said = findings.about_frames(frames, _frames_in(frames, stride), _frames_in(frames, 1))
    chosen = _judge(frames, outputs, metric, said)
    noise = _Worst(outputs)
    apart = _Worst(outputs)
    largest = {spec.name: 0.0 for spec in outputs}
    limits = {spec.name: (math.inf, -math.inf) for spec in outputs}
    expected: list[dict[str, Array]] = []
    kept: list[dict[str, Array]] = []
    unsteady: dict[str, float] = {}
    for i, inputs in enumerate(frames):
        compared = i % stride == 0
        judged = chosen is not None and i * frames.size < frames.given
        if not (compared or judged):
            continue
        rounded = original.run(inputs)
        if i == 0:
            unsteady = randomness.differing(rounded, original.run(inputs))
        if compared:
            exact = rounded if reference is original else reference.run(inputs)
            expected.append(exact)
            noise.add(rounded, exact)
            if module is not None:
                apart.add(module.run(inputs), rounded)
            for spec in outputs:
                largest[spec.name] = max(largest[spec.name], _largest(exact[spec.name]))
                limits[spec.name] = _widened(limits[spec.name], exact[spec.name])
        if judged and chosen is not None:
            kept.append(chosen.keep(rounded))
    floors = noise.errors if noise_floor is None else noise_floor
    bounds = {
        spec.name: parity.bound(
            floors[spec.name],
            largest[spec.name],
            exact=parity.is_exact(spec.dtype),
            spread=_spread(limits[spec.name], largest[spec.name] if frames.source == "random" else 0.0),
        )
        for spec in outputs
    }
    said.extend(randomness.seen({name: by for name, by in unsteady.items() if name not in random}))
    for spec in outputs:
        if spec.name in random or spec.name in unsteady:
            bounds[spec.name] = replace(bounds[spec.name], tolerance=math.nan)
        else:
            said.extend(findings.about_reference(spec, bounds[spec.name], apart.errors[spec.name]))
    accuracy = None
    if chosen is not None:
        before = chosen.score(kept, "original", original.runtime, kept)
        accuracy = Accuracy(chosen.name, chosen.output, len(chosen.labels), before)
        said.extend(findings.chance(accuracy, outputs))
    return Yardstick(frames, outputs, bounds, said, chosen, accuracy, stride, expected, kept, gate)


class _Worst:
    """The largest distance of each output over the frames."""

    def __init__(self, outputs: tuple[TensorSpec, ...]) -> None:
        self.errors = {spec.name: 0.0 for spec in outputs}
        self._exact = {spec.name: parity.is_exact(spec.dtype) for spec in outputs}

    def add(self, actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
        for name, exact in self._exact.items():
            here = parity.error(actual[name], expected[name], exact=exact)
            self.errors[name] = max(self.errors[name], here)


def _judge(
    frames: Frames, outputs: tuple[TensorSpec, ...], metric: Metric | None, said: list[Finding]
) -> Judge | None:
    if frames.labels is None:
        if metric is not None:
            said.append(findings.not_taken("the samples have no labels"))
        return None
    chosen, why = judge(frames.labels, outputs, frames.size, metric)
    if chosen is None:
        said.append(findings.not_taken(why))
    return chosen


def _stride(frames: Frames, outputs: tuple[TensorSpec, ...]) -> int:
    """Every how many calls one is compared, so that the reference outputs fit in memory."""
    per_call = sum(8 * math.prod(size or frames.size for size in spec.shape) for spec in outputs)
    enough = -(-parity.MIN_FRAMES // frames.size)
    most = max(enough, min(_MAX_FRAMES // frames.size, _MAX_BYTES // max(per_call, 1)), 1)
    return -(-len(frames) // most)


def _frames_in(frames: Frames, stride: int) -> int:
    """The number of different frames among the calls that are compared."""
    total = 0
    given_calls = -(-frames.given // frames.size)
    for i in range(0, len(frames), stride):
        last_given = i == given_calls - 1 and frames.given % frames.size
        total += frames.given % frames.size if last_given else frames.size
    return total


def _largest(values: Array) -> float:
    if values.dtype.kind in "biu":
        return 0.0
    largest = float(np.max(np.abs(values), initial=0.0))
    return largest if math.isfinite(largest) else math.inf


def _share(bound: Bound, error: float) -> float:
    """The error in units of its tolerance."""
    if not math.isfinite(error):
        return math.inf
    return error / bound.tolerance if bound.tolerance > 0 else (math.inf if error else 0.0)


def _widened(limits: tuple[float, float], values: Array) -> tuple[float, float]:
    """Smallest and largest value so far; integers and complex numbers have no range."""
    if values.dtype.kind != "f" or not values.size:
        return limits
    return min(limits[0], float(values.min())), max(limits[1], float(values.max()))


def _spread(limits: tuple[float, float], least: float) -> float:
    """The range; noise hardly moves some outputs, so on it the largest value counts as well."""
    spread = max(limits[1] - limits[0], least)
    return spread if math.isfinite(spread) else 0.0


def _error(actual: Array, expected: Array, spec: TensorSpec, different: dict[str, str]) -> float:
    whole = parity.is_exact(spec.dtype)
    if actual.shape != expected.shape:
        different[spec.name] = f"its shape is {actual.shape}; the reference's is {expected.shape}"
    elif (actual.dtype.kind in "biu") != whole:
        different[spec.name] = f"it is {actual.dtype}; the reference's is {spec.dtype}"
    return parity.error(actual, expected, exact=whole)
