"""Graphs -> model files, one module per target. This file imports neither torch nor a converter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bnfold.finding import Finding

SIZE_LIMIT = 2**31 - 1
"""Bytes. ONNX (protobuf) and TFLite (flatbuffers with 32-bit offsets) files cannot be larger."""


TFLITE_2_14, LITERT = RUNTIMES = ("tflite-2.14", "litert")
"""What a TFLite file can be made for: tflite-runtime 2.14.0 and ai-edge-litert, or ai-edge-litert alone."""


@dataclass(frozen=True)
class Exported:
    """A model file, without its manifest, and what is known of it.

    Attributes:
        data: the file's bytes: the same for the same input, from any directory.
        inputs: bnfold's name of each input -> the file's own name of that tensor. For TFLite these are the
            keys of the file's one signature.
        outputs: the same for the outputs.
        libraries: versions of the libraries that wrote the file.
        runs_on: interpreters: ``{"runtime", "version", "basis"}``; basis ``ran`` (the file was run there and
            gave the network's values) or ``operator table`` (all its operators and versions are known there).
        findings: what the caller should report, such as an interpreter that cannot run the file.
        layers: the file's name of a tensor -> the qualified name of the module that makes it, where known.
        log: what the exporting libraries printed; for ``--verbose``.
        channels_last: bnfold's names of the inputs that the file takes channels last, the network first.
    """

    data: bytes
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    libraries: Mapping[str, str]
    runs_on: list[dict[str, Any]]
    findings: list[Finding] = field(default_factory=list)
    layers: Mapping[str, str] = field(default_factory=dict)
    log: str = field(default="", compare=False)
    channels_last: frozenset[str] = frozenset()
