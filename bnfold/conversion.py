"""What a conversion came to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnfold import finding as f
from bnfold.finding import Finding
from bnfold.fold.report import BatchNormEntry, Pruning
from bnfold.quantize.losses import Loss
from bnfold.verify import Accuracy, Agreement, Parity


@dataclass(frozen=True)
class Artifact:
    """A file that was written.

    Attributes:
        target: ``onnx`` or ``tflite``.
        role: ``clean``.
        path: where; it ends in ``.rejected`` where the file failed its parity check.
        sha256, size_bytes: of the whole file, manifest included.
        precision: ``fp32``, ``fp16`` or ``int8``.
    """

    target: str
    role: str
    path: Path
    sha256: str
    size_bytes: int
    precision: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "target": self.target,
            "role": self.role,
            "path": str(self.path),
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "precision": self.precision,
        }


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion came to.

    Attributes:
        batch_norms: one entry per BatchNorm call, in execution order.
        parity: the fold's, then each file's in each interpreter; one per output.
        findings: errors first.
        artifacts: the files that were written.
        source: ``path``, ``sha256`` and ``format`` of the checkpoint; each may be None.
        accuracy: on labelled samples; None without labels.
        pruned: the channels that were removed; None where it was not asked for.
        agreement: of files of a lower precision with the network, one per file, interpreter and output.
        losses: the layers where each file of a lower precision loses most.
    """

    batch_norms: list[BatchNormEntry]
    parity: list[Parity]
    findings: list[Finding]
    artifacts: list[Artifact]
    source: dict[str, str | None]
    accuracy: Accuracy | None = None
    pruned: Pruning | None = None
    agreement: list[Agreement] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every parity and every agreement holds and no finding is an error."""
        holds = all(result.passed for result in self.parity) and all(one.passed for one in self.agreement)
        return holds and f.passed(self.findings)

    @property
    def exit_status(self) -> int:
        """0 passed; 1 a gate failed; 3 the certificate of a fold failed, which is a bug in bnfold."""
        if self.passed:
            return 0
        bug = any(found.severity == "error" and found.code.startswith("BNF-X") for found in self.findings)
        return 3 if bug else 1

    def to_json(self) -> dict[str, Any]:
        """The document of ``bnfold convert --format json``. A number that is not finite is null."""
        document = {
            "schema": 1,
            "passed": self.passed,
            "source": dict(self.source),
            "batch_norms": [entry.to_json() for entry in self.batch_norms],
            "parity": [result.to_json() for result in self.parity],
            "findings": [found.to_json() for found in self.findings],
            "artifacts": [artifact.to_json() for artifact in self.artifacts],
            "accuracy": self.accuracy.to_json() if self.accuracy else None,
            "pruned": self.pruned.to_json() if self.pruned else None,
            "agreement": [one.to_json() for one in self.agreement],
            "losses": [one.to_json() for one in self.losses],
        }
        checked: dict[str, Any] = finite(document)
        return checked


def finite(value: Any) -> Any:
    """The same JSON document with null for every number that is not finite: JSON cannot say those."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, list | tuple) else value
