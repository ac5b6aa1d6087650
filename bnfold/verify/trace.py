"""Every value inside a candidate, for naming the layer where it goes wrong. Only run when parity fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from bnfold import manifest as manifest_file
from bnfold.capture import Captured
from bnfold.channels_last import of_manifest, to_file
from bnfold.inner_values import onnx_values, tflite_values
from bnfold.verify.candidates import ArtifactCandidate, Candidate, TorchCandidate
from bnfold.verify.divergence import Divergence, first_divergence

Array = NDArray[Any]


def divergence_of(captured: Captured, candidate: Candidate, inputs: Mapping[str, Array]) -> Divergence | None:
    """Where this candidate leaves the network, on the inputs where it is furthest off.

    None where its values cannot be looked into: only the full LiteRT interpreter keeps them, and onnx must be
    installed for ONNX.
    """
    if isinstance(candidate, TorchCandidate):
        body = candidate.call
        return first_divergence(captured, body, inputs) if isinstance(body, fx.GraphModule) else None
    if not isinstance(candidate, ArtifactCandidate) or not candidate.data:
        return None
    model = candidate.model
    tensors = {entry["name"]: entry["tensor"] for entry in model.manifest["inputs"]}
    values = _onnx_values if candidate.kind == "onnx" else _tflite_values
    found = values(
        manifest_file.strip(candidate.data),
        {tensors[name]: array for name, array in to_file(inputs, of_manifest(model.manifest)).items()},
    )
    return first_divergence(captured, found, inputs) if found is not None else None


def _onnx_values(data: bytes, feeds: Mapping[str, Array]) -> Iterable[Array] | None:
    import onnxruntime

    return _floating(onnx_values(data, onnxruntime.SessionOptions())(feeds).values())


def _tflite_values(data: bytes, feeds: Mapping[str, Array]) -> Iterable[Array] | None:
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError:
        return None
    return _floating(value for _, value in tflite_values(data)(feeds))


def _floating(values: Iterable[Any]) -> Iterable[Array]:
    return [value for value in map(np.asarray, values) if value.dtype.kind == "f"]
