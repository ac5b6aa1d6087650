"""ONNX artifacts in onnxruntime, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnfold.runtime.session import Array, Binding, FileTensor, Stopped

_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(bool)": "bool", "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int16)": "int16",
    "tensor(uint16)": "uint16", "tensor(int32)": "int32", "tensor(uint32)": "uint32",
    "tensor(int64)": "int64", "tensor(uint64)": "uint64",
}  # fmt: skip

_ERRORS_ONLY = 3


class OnnxRuntimeSession:
    """See :class:`bnfold.runtime.session.Session`. Safe to call from several threads at once."""

    def __init__(
        self, source: bytes | str, threads: int, inputs: Binding, outputs: Binding, stopped: Stopped
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY  # failures are exceptions, and stay on the terminal too
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        inputs.check({node.name: _declared(node) for node in session.get_inputs()})
        outputs.check({node.name: _declared(node) for node in session.get_outputs()})
        self.interpreter: Any = session
        self._run = session.run
        self._stopped = stopped
        # numbered here: between two frames, when the network has put Python out of the cache, zip and a
        # comprehension take ten microseconds
        self._inputs = list(enumerate(inputs.tensors))
        self._wanted = list(outputs.tensors)
        self._outputs = list(enumerate(outputs.names))
        self._scalars = any(not spec.shape for spec in outputs.specs)

    def run(self, arrays: Sequence[Array]) -> dict[str, Array]:
        feed: dict[str, Array] = {}
        outputs: dict[str, Array] = {}
        for number, tensor in self._inputs:
            feed[tensor] = arrays[number]
        try:
            values = self._run(self._wanted, feed)
        except Exception as error:  # its exception types have no common base
            raise self._stopped(error) from error
        for number, name in self._outputs:
            outputs[name] = values[number]
        if self._scalars:  # which are numbers here, not arrays
            return {name: np.asarray(value) for name, value in outputs.items()}
        return outputs


def _declared(node: Any) -> FileTensor:
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return FileTensor(shape, _DTYPES.get(node.type))
