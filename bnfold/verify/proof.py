"""A whole conversion's proof: one reference, measured once, and every form of the network held against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn

from bnfold.finding import Finding
from bnfold.fold import FoldResult
from bnfold.samples import Frames, Inputs, frames_of, random_frames
from bnfold.verify import batch, yardstick
from bnfold.verify.accuracy import Metric
from bnfold.verify.agreement import Agreement
from bnfold.verify.candidates import Candidate, TorchCandidate, module_call, original, twin
from bnfold.verify.parity import MIN_FRAMES, Parity
from bnfold.verify.trace import divergence_of
from bnfold.verify.yardstick import Measurement, Yardstick

_SEVERAL = 3
"""Frames per call when a symbolic batch is put to the test."""


class Proof:
    """The reference on the frames, and what has been compared with it so far."""

    def __init__(self, folded: FoldResult, frames: Frames, yardstick_: Yardstick) -> None:
        self.captured = folded.captured
        self.frames = frames
        self.yardstick = yardstick_
        self.parity: list[Parity] = []
        self.agreement: list[Agreement] = []
        self.findings: list[Finding] = []
        self._several: Yardstick | None = None

    @classmethod
    def of(
        cls,
        module: nn.Module,
        example_inputs: tuple[Any, ...],
        folded: FoldResult,
        samples: Any,
        normalisation: Mapping[str, Mapping[str, Any] | None],
        metric: Metric | None,
        random: Frames | None = None,
    ) -> Proof:
        """Runs the reference on every frame; its own checks are in ``.yardstick.findings``.

        ``random``: where there are no samples, these in place of noise.
        """
        captured = folded.captured
        inputs, outputs = captured.inputs, captured.outputs
        if samples is None and random is not None:
            frames = random
        elif samples is None:
            example = {
                spec.name: tensor.detach().cpu().numpy()
                for spec, tensor in zip(inputs, captured.example, strict=True)
            }
            frames = random_frames(inputs, example, MIN_FRAMES)
        else:
            frames = frames_of(samples, inputs, normalisation, at_least=MIN_FRAMES)
        own = TorchCandidate("torch", module_call(module, example_inputs), inputs, outputs)
        measure = yardstick.build(
            twin(captured), original(captured), outputs, frames, metric=metric, module=own
        )
        measure.findings.extend(batch.check(own, inputs, outputs, frames, measure.bounds))
        return cls(folded, frames, measure)

    def measure(self, candidate: Candidate) -> bool:
        """Compare one candidate; whether it passed."""
        results = [self.yardstick.measure(candidate)]
        self.parity.extend(results[0].parity)
        self.agreement.extend(results[0].agreement)
        if self.captured.dynamic_batch:
            several = self._in_batches(candidate)
            self.parity.extend(result for result in several.parity if not result.passed)
            self.agreement.extend(one for one in several.agreement if not one.passed)
            results.append(several)
        for result in results:
            divergence = None
            if not result.passed and result.worst is not None and candidate.gate is None:
                divergence = divergence_of(self.captured, candidate, result.worst)
            self.findings.extend(result.findings(divergence, losses=candidate.losses))
        return all(result.passed for result in results)

    def _in_batches(self, candidate: Candidate) -> Measurement:
        """A symbolic batch, with several frames in one call: a file may have frozen it at one."""
        if self._several is None:
            frames, outputs = _together(self.frames), self.captured.outputs
            self._several = yardstick.build(twin(self.captured), original(self.captured), outputs, frames)
            self._several.kinds = self.yardstick.kinds
        return self._several.measure(candidate)

    def rows(self, target: str, role: str = "clean") -> list[dict[str, Any]]:
        """The parity of the fold and of one file, for the file's manifest."""
        of_file = [r for r in self.parity if r.candidate == "fold" or (r.candidate, r.role) == (target, role)]
        return [result.to_json() for result in of_file]

    def agreement_rows(self, target: str, role: str = "clean") -> list[dict[str, Any]]:
        """The agreement of one file, for its manifest."""
        return [one.to_json() for one in self.agreement if (one.candidate, one.role) == (target, role)]


def _together(frames: Frames) -> Frames:
    """The same frames, several in a call."""

    def make() -> Iterator[Inputs]:
        group: list[Inputs] = []
        for inputs in frames:
            group.append(inputs)
            if len(group) == _SEVERAL:
                yield {name: np.concatenate([one[name] for one in group]) for name in inputs}
                group = []

    calls = len(frames) // _SEVERAL
    return Frames(frames.inputs, frames.source, calls * _SEVERAL, _SEVERAL, calls, None, make)
