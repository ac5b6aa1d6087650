"""Every value inside a model file, as its interpreter computes it: to see where a file goes wrong, and how
far its tensors go. A file is prepared once, and run as often as needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime

Array = NDArray[Any]
Feeds = Mapping[str, Array]
"""One call's arrays by the file's own names of the inputs."""


def onnx_values(data: bytes, options: onnxruntime.SessionOptions) -> Callable[[Feeds], dict[str, Any]]:
    """Of an ONNX graph, by tensor name: all of its values are made outputs of a copy."""
    import onnx
    import onnxruntime

    model = onnx.load_from_string(data)
    known = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def tflite_values(data: bytes) -> Callable[[Feeds], list[tuple[dict[str, Any], Array]]]:
    """Of a TFLite graph, from an interpreter that is told to keep them: each with its tensor's details, since
    names need not differ.

    Raises:
        ImportError: ai-edge-litert is not installed; no other interpreter keeps them.
    """
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that keeping every tensor is for debugging: it is
        interpreter = Interpreter(model_content=data, num_threads=1, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    details = interpreter.get_tensor_details()

    def run(feeds: Feeds) -> list[tuple[dict[str, Any], Array]]:
        runner(**feeds)
        found = []
        for detail in details:
            try:
                value = interpreter.get_tensor(detail["index"])
            except ValueError:
                continue  # a temporary of a kernel: it holds no data
            found.append((detail, np.asarray(value)))
        return found

    return run
