"""How well a low-precision candidate agrees with the reference: answers, angle, and signal against noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bnfold.quantize.gate import Gate
from bnfold.signature import TensorSpec
from bnfold.verify.parity import finite_or_none, is_exact

Array = NDArray[Any]
Kind = Literal["top-1", "values"]


@dataclass(frozen=True)
class Agreement:
    """One output of one low-precision candidate against the float64 reference, over all compared frames.

    Attributes:
        candidate, runtime, output, role: as in :class:`~bnfold.verify.Parity`.
        precision: ``fp16`` or ``int8``.
        kind: ``top-1``: the share of frames whose largest score is the same (an output of two axes with at
            least three scores, or the one that labels belong to). ``values``: the share of values that are
            off by no more than the gate's share of the output's range; integers must be equal.
        counted: frames or values that were judged.
        share: of those, that agree.
        ties: random frames left out of top-1, since their two best scores are closer to each other than
            twice the share of the range that a value may be off.
        min_agreement: what ``share`` must be.
        cosine: of the angle between the outputs of all frames and the reference's.
        snr_db: their signal-to-noise ratio, 10 log10(sum y^2 / sum (y' - y)^2); infinite where equal.
    """

    candidate: str
    runtime: str
    output: str
    role: str
    precision: str
    kind: Kind
    counted: int
    share: float
    ties: int
    min_agreement: float
    cosine: float
    snr_db: float

    @property
    def passed(self) -> bool:
        return self.share >= self.min_agreement

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; what is not finite is null."""
        return {
            "candidate": self.candidate,
            "runtime": self.runtime,
            "output": self.output,
            "role": self.role,
            "precision": self.precision,
            "kind": self.kind,
            "counted": self.counted,
            "agreement": self.share,
            "ties": self.ties,
            "min_agreement": self.min_agreement,
            "cosine": finite_or_none(self.cosine),
            "snr_db": finite_or_none(self.snr_db),
            "passed": self.passed,
        }


def is_scores(spec: TensorSpec, size: int, judged: str | None) -> bool:
    """Whether an output holds the scores of classes; ``judged``: the one that labels belong to."""
    if is_exact(spec.dtype) or len(spec.shape) != 2 or spec.shape[0] not in (None, size):
        return False
    return spec.name == judged or (spec.shape[1] or 0) >= 3


class Tally:
    """Counts one output, call by call.

    Args:
        spec: the output.
        gate: what agrees.
        spread: the output's range.
        scores: whether it holds the scores of classes.
        ties: whether near-ties are left out, as on random frames.
    """

    def __init__(self, spec: TensorSpec, gate: Gate, spread: float, *, scores: bool, ties: bool) -> None:
        self._spec, self._gate = spec, gate
        self._exact = is_exact(spec.dtype)  # compared as they are: float64 has no odd numbers beyond 2^53
        self._allowed = 0.0 if self._exact else gate.agreeing * spread
        self._scores, self._leave_ties = scores, ties
        self._agreed = self._counted = self._ties = 0
        self._signal = self._noise = self._other = self._product = 0.0

    def add(self, actual: Array, expected: Array) -> None:
        """One call's output; of another shape or kind it agrees nowhere."""
        if actual.shape != expected.shape:
            self._counted += expected.shape[0] if self._scores else expected.size
            return
        ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
        if self._scores:
            best = np.sort(theirs, axis=-1)
            # both may be off by what is allowed, each towards the other
            clear = best[:, -1] - best[:, -2] > 2 * self._allowed
            if not self._leave_ties:
                clear = np.ones(len(best), bool)
            same = (ours.argmax(-1) == theirs.argmax(-1)) & np.isfinite(ours).all(-1)
            self._counted += int(clear.sum())
            self._agreed += int((same & clear).sum())
            self._ties += int((~clear).sum())
        else:
            self._counted += expected.size
            same = actual == expected if self._exact else np.abs(ours - theirs) <= self._allowed
            self._agreed += int(same.sum())
        self._signal += float((theirs**2).sum())
        self._other += float((ours**2).sum())
        self._product += float((ours * theirs).sum())
        self._noise += float(((ours - theirs) ** 2).sum())

    def result(self, candidate: str, runtime: str, role: str) -> Agreement:
        """What was counted."""
        length = math.sqrt(self._signal * self._other)
        equal = self._noise == 0
        return Agreement(
            candidate,
            runtime,
            self._spec.name,
            role,
            self._gate.precision,
            "top-1" if self._scores else "values",
            self._counted,
            self._agreed / self._counted if self._counted else 0.0,  # nothing was shown
            self._ties,
            self._gate.min_agreement,
            self._product / length if length > 0 else (1.0 if equal else 0.0),
            math.inf if equal else decibels(self._signal, self._noise),
        )


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise); minus infinity without a signal, infinity without noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf


def passed(agreement: Sequence[Agreement]) -> bool:
    """Whether every gate holds."""
    return all(one.passed for one in agreement)
