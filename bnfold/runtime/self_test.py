"""The golden frame, replayed: does a file give here what it gave at conversion?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bnfold import numerics
from bnfold.errors import ArtifactError
from bnfold.runtime import golden

if TYPE_CHECKING:
    from bnfold.runtime.model import Model


@dataclass(frozen=True)
class OutputCheck:
    """How far one output of the golden frame is from what it was at conversion.

    For integers and booleans ``max_abs_error`` and ``tolerance`` are shares of elements that differ.
    """

    output: str
    max_abs_error: float
    tolerance: float
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types; an error that is not finite is null."""
        error = self.max_abs_error if math.isfinite(self.max_abs_error) else None
        return {**asdict(self), "max_abs_error": error}


def replay(model: Model) -> list[OutputCheck]:
    """See :meth:`bnfold.runtime.model.Model.self_test`."""
    recorded = model.manifest["golden"]
    if recorded is None:
        raise ArtifactError(
            "BNF-M009", "the artifact carries no golden frame", fix="convert the checkpoint again"
        )
    where = f"golden frame of {model.manifest['name']!r}"
    inputs = {name: golden.decode(entry, where=where) for name, entry in recorded["inputs"].items()}
    outputs = model.predict_raw(inputs)
    checks = []
    for name, entry in recorded["outputs"].items():
        expected = golden.decode(entry, where=where)
        same = expected.shape == outputs[name].shape and expected.dtype == outputs[name].dtype
        distance = numerics.share_unequal if expected.dtype.kind in "biu" else numerics.max_abs_error
        error = distance(outputs[name], expected) if same else math.inf
        checks.append(OutputCheck(name, error, entry["tolerance"], error <= entry["tolerance"]))
    return checks
