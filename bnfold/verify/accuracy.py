"""What the network is worth on labelled frames: top-1, or the user's own metric, before and after."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import BnfoldError, UsageError, VerifyError
from bnfold.signature import TensorSpec

Array = NDArray[Any]
Metric = Callable[[dict[str, Array], Array], float]

TOP_1 = "top-1"


@dataclass(frozen=True)
class Score:
    """The result of one candidate on the labelled frames.

    Attributes:
        candidate, runtime: as in :class:`~bnfold.verify.Parity`; ``original`` is the network before.
        value: share of right answers, or the metric's value.
        correct: right answers, for top-1.
        changed: frames whose top-1 answer is another than the original's; 0 for the original.
    """

    candidate: str
    runtime: str
    value: float
    correct: int | None = None
    changed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "candidate": self.candidate,
            "runtime": self.runtime,
            "value": self.value if np.isfinite(self.value) else None,
            "correct": self.correct,
            "changed": self.changed,
        }


@dataclass
class Accuracy:
    """Scores before and after on the same labelled frames.

    Attributes:
        metric: ``top-1``, or the name of the user's function.
        output: the output whose largest element is the answer; None for a user's metric.
        frames: labelled frames.
        before: the original network.
        after: every candidate in every interpreter.
    """

    metric: str
    output: str | None
    frames: int
    before: Score
    after: list[Score] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "metric": self.metric,
            "output": self.output,
            "frames": self.frames,
            "before": self.before.to_json(),
            "after": [score.to_json() for score in self.after],
        }


@dataclass(frozen=True)
class Judge:
    """How answers are judged: labels with either one output's arg max, or a user's metric.

    Attributes:
        labels: class numbers, shape (frames,).
        output: the output whose last axis holds the scores; None with a metric.
        metric: ``metric(outputs, labels)``: the outputs by name, stacked over the frames.
    """

    labels: Array
    output: str | None
    metric: Metric | None = None

    @property
    def name(self) -> str:
        return getattr(self.metric, "__name__", "metric") if self.metric else TOP_1

    def keep(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """What must be kept of one call's outputs: everything for a metric, the answers for top-1."""
        if self.metric is not None:
            return dict(outputs)
        assert self.output is not None
        return {self.output: np.argmax(outputs[self.output], axis=-1)}

    def score(
        self, kept: list[dict[str, Array]], candidate: str, runtime: str, before: list[dict[str, Array]]
    ) -> Score:
        """The score of what was kept of every call.

        Raises:
            VerifyError: the user's metric fails or gives no number (BNF-V027).
        """
        stacked = {name: self._stack([call[name] for call in kept]) for name in kept[0]}
        if self.metric is None:
            assert self.output is not None
            answers = stacked[self.output]
            correct = int(np.sum(answers == self.labels))
            changed = int(np.sum(answers != self._stack([call[self.output] for call in before])))
            return Score(candidate, runtime, correct / len(self.labels), correct, changed)
        try:
            value = float(self.metric(stacked, self.labels))
        except BnfoldError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in stacked.items())
            raise VerifyError(
                "BNF-V027",
                f"the metric {self.name} failed: {type(error).__name__}: {error}",
                where=f"outputs {shapes}; labels {self.labels.shape}",
                fix="it is called as metric(outputs, labels) and gives one number",
            ) from error
        return Score(candidate, runtime, value)

    def _stack(self, calls: list[Array]) -> Array:
        """One array over the labelled frames; frames that only fill up a batch fall away."""
        return np.concatenate([np.atleast_1d(call) for call in calls])[: len(self.labels)]


def judge(
    labels: Array, outputs: tuple[TensorSpec, ...], size: int, metric: Metric | None
) -> tuple[Judge | None, str]:
    """The judge of these labels, or None and why there is none.

    Raises:
        VerifyError: a label that is no class (BNF-V026).
    """
    if metric is not None:
        return Judge(labels, None, metric), ""
    scores = [
        spec
        for spec in outputs
        if len(spec.shape) == 2 and spec.shape[0] in (None, size) and (spec.shape[1] or 0) >= 2
    ]
    if len(scores) != 1:
        told = ", ".join(spec.describe() for spec in outputs)
        return None, f"{len(scores)} outputs could be the scores of classes ({told})"
    classes = scores[0].shape[1] or 0
    if labels.size and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise VerifyError(
            "BNF-V026",
            f"labels run from {labels.min()} to {labels.max()}; "
            f"output {scores[0].name!r} has {classes} classes",
            where="labels",
            fix="give one class number per frame, counted from 0",
        )
    return Judge(labels, scores[0].name), ""


def load_metric(target: str) -> Metric:
    """The function of ``FILE.py:NAME``. This runs the user's file.

    Raises:
        UsageError: not of this form, no such file or name, no function, or the file fails (BNF-U110).
    """
    file, colon, name = target.rpartition(":")
    path = Path(file)
    if not colon or not name.isidentifier() or not path.is_file():
        raise UsageError(
            "BNF-U110",
            f"no metric {target!r}",
            where="--metric",
            fix="--metric FILE.py:NAME, a function metric(outputs, labels) that gives a number",
        )
    spec = importlib.util.spec_from_file_location(f"_bnfold_metric_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(
            "BNF-U110", f"{path.name} failed: {type(error).__name__}: {error}", where="--metric"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError("BNF-U110", f"{path.name} has no function {name!r}", where="--metric")
    return found  # type: ignore[no-any-return]
