"""The largest scores of one answer, with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bnfold.errors import InputError
from bnfold.runtime.session import Array


@dataclass(frozen=True)
class Score:
    """One entry of an answer: the class, its label (the number where there are no labels), the raw output."""

    index: int
    label: str
    score: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def top(scores: Array, labels: Sequence[str] | None, k: int) -> list[Score]:
    """The k largest scores, the largest first; ties in the order of the classes.

    Args:
        scores: of one frame: (classes,) or (1, classes), or with more axes of size 1 before or after.
        labels: one per class, or None.
        k: how many; all where there are fewer.

    Raises:
        InputError: BNF-R016 a score is not finite: no order of them means anything; BNF-R017 not the scores
            of one frame, or not one per label.
    """
    values = np.asarray(scores, dtype=np.float64)
    classes = values.size
    if values.ndim == 0 or max(values.shape) != classes or (labels is not None and len(labels) != classes):
        told = f"; the artifact has {len(labels)} labels" if labels is not None else ""
        raise InputError(
            "BNF-R017",
            f"no list of scores for one frame: shape {values.shape}{told}",
            fix="ask for the scores of one frame, one score per label",
        )
    values = values.reshape(-1)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InputError(
            "BNF-R016",
            f"{bad} of {classes} scores are not finite",
            fix="check the frame for NaN; if it has none, run bnfold diagnose on the checkpoint",
        )
    best = np.argsort(-values, kind="stable")[:k]
    return [Score(int(i), labels[i] if labels else str(i), float(values[i])) for i in best]
