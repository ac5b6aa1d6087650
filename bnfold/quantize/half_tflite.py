"""TFLite with float16 weights: each becomes float16, and a DEQUANTIZE makes float32 of it.

This is the form that TensorFlow's own converter gives such files: the interpreters' CPU kernels (XNNPACK)
take the pair for a constant. ai-edge-quantizer casts the weights of five operators only (no CONV_3D, nothing
of BATCH_MATMUL), so it is done here, for all alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.quantize import Lowered, tflite_file
from bnfold.quantize.half import Halves

_HALF_VERSION = 3  # of DEQUANTIZE: from here on it takes float16


def lower(data: bytes) -> Lowered:
    """A TFLite file with float16 weights.

    Args:
        data: the float32 file.

    Raises:
        ExportError: BNF-E050 a weight is beyond the range of float16.
    """
    model = tflite_file.read(data)
    halves = Halves("TFLite")
    halve(model, halves)
    return Lowered(
        tflite_file.write(model), weights="float16", activations="float32", findings=halves.findings()
    )


def halve(model: Any, halves: Halves) -> None:
    """Replace the float32 constants that operators read, in place. ``model``: the schema's ``ModelT``."""
    from ai_edge_litert import schema_py_generated as schema

    for graph in model.subgraphs:
        stored: dict[int, int | None] = {}  # buffer -> its tensor in float16
        casts = []
        read = {int(index) for operator in graph.operators for index in operator.inputs if index >= 0}
        for index in sorted(read):
            tensor = graph.tensors[index]
            if tensor.type != schema.TensorType.FLOAT32 or not tflite_file.is_constant(model, tensor):
                continue
            if tensor.buffer not in stored:
                values = tflite_file.values(model, tensor, np.float32)
                half = halves.of(tensor.name.decode(), values)
                stored[tensor.buffer] = None if half is None else _add(model, graph, tensor, half)
            source = stored[tensor.buffer]
            if source is not None:
                tensor.buffer = 0  # the empty one: its value is computed now
                casts.append(tflite_file.operator(model, "DEQUANTIZE", _HALF_VERSION, [source], [index]))
        graph.operators = [*casts, *graph.operators]
    tflite_file.drop_unread_buffers(model)


def _add(model: Any, graph: Any, like: Any, values: np.ndarray[Any, Any]) -> int:
    """A constant tensor; its index."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = schema.TensorT()
    tensor.name = like.name + b".half"
    tensor.shape = like.shape
    tensor.type = schema.TensorType.FLOAT16
    tensor.buffer = tflite_file.add_buffer(model, values)
    tensor.hasRank = True
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
