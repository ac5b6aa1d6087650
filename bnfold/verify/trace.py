"""Every value inside a candidate, for naming the layer where it goes wrong. Only run when parity fails."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from bnfold import manifest as manifest_file
from bnfold.capture import Captured
from bnfold.channels_last import of_manifest, to_file
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
    """Every value of an ONNX graph: all of them made outputs of a copy."""
    import onnx
    import onnxruntime

    model = onnx.load_from_string(data)
    known = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return _floating(session.run(None, dict(feeds)))


def _tflite_values(data: bytes, feeds: Mapping[str, Array]) -> Iterable[Array] | None:
    """Every value of a TFLite graph, from an interpreter that is told to keep them."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that keeping every tensor is for debugging: it is
        interpreter = Interpreter(model_content=data, num_threads=1, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    runner(**feeds)
    values = []
    for detail in interpreter.get_tensor_details():
        try:
            values.append(interpreter.get_tensor(detail["index"]))
        except ValueError:
            continue  # a temporary of a kernel: it holds no data
    return _floating(values)


def _floating(values: Iterable[Any]) -> Iterable[Array]:
    return [value for value in map(np.asarray, values) if value.dtype.kind == "f"]
