"""Model files of a lower precision, made from the float32 ones: one file per format and precision.

``fp16`` stores the weights as float16 and computes in float32: twice as small, the same speed, and nothing in
between can overflow. ``int8`` stores weights (per channel) and activations as 8-bit integers, by the
quantizers that the ecosystem keeps (:mod:`onnxruntime.quantization`, ``ai-edge-quantizer``); what they have
no integer kernel for stays in float32, with its weights as float16. Inputs and outputs stay what they are:
names, shapes, float32. The file itself rounds at its borders, so a device runs it like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bnfold.finding import Finding


@dataclass(frozen=True)
class Lowered:
    """A model file of a lower precision, without its manifest.

    Attributes:
        data: the file's bytes; its inputs and outputs are those of the float32 file.
        weights, activations: how they are stored, in words.
        libraries: versions of the libraries that made it, beside the exporters.
        findings: what was left in a higher precision, and why.
        tensors: float32 file's name of a tensor -> this file's own, where both hold the same value.
        log: what the quantizer printed; for ``--verbose``.
    """

    data: bytes
    weights: str
    activations: str
    libraries: Mapping[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    tensors: Mapping[str, str] = field(default_factory=dict)
    log: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"weights": self.weights, "activations": self.activations}
