"""TFLite artifacts in tflite-runtime or its successor ai-edge-litert: one interface under two names."""

from __future__ import annotations

from _thread import allocate_lock  # threading's Lock, without the rest of it
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnfold.runtime.quiet import quiet_stderr
from bnfold.runtime.session import Array, Binding, FileTensor, Stopped, dtype_name

# written to standard error by the interpreter whenever it works as it should
_CHATTER = (b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",)


class TfliteSession:
    """See :class:`bnfold.runtime.session.Session`.

    The interpreter keeps inputs and outputs in buffers of its own, so a call holds a lock: two threads take
    turns and never see each other's frame.
    """

    def __init__(
        self,
        module: Any,
        source: bytes | str,
        threads: int,
        inputs: Binding,
        outputs: Binding,
        stopped: Stopped,
    ) -> None:
        given = {"model_path" if isinstance(source, str) else "model_content": source}
        interpreter = module.Interpreter(**given, num_threads=threads)
        with quiet_stderr(_CHATTER):
            interpreter.allocate_tensors()
        found_inputs, found_outputs = _tensors(interpreter)
        inputs.check({name: _declared(details) for name, details in found_inputs.items()})
        outputs.check({name: _declared(details) for name, details in found_outputs.items()})
        self._inputs = list(enumerate(int(found_inputs[name]["index"]) for name in inputs.tensors))
        indices = [int(found_outputs[name]["index"]) for name in outputs.tensors]
        self._outputs = list(zip(outputs.names, indices, strict=True))
        self._scalars = any(not spec.shape for spec in outputs.specs)
        self.interpreter: Any = interpreter
        # looked up and numbered once: between two frames every step of Python's takes microseconds
        self._set, self._get = interpreter.set_tensor, interpreter.get_tensor
        self._invoke = interpreter.invoke
        self._lock = allocate_lock()
        self._stopped = stopped

    def run(self, arrays: Sequence[Array]) -> dict[str, Array]:
        outputs: dict[str, Array] = {}
        try:
            with self._lock:
                for number, index in self._inputs:
                    self._set(index, arrays[number])
                self._invoke()
                for name, index in self._outputs:
                    outputs[name] = self._get(index)  # a copy
        except Exception as error:  # it raises what it happens to raise: RuntimeError, ValueError
            raise self._stopped(error) from error
        if self._scalars:  # which are numbers here, not arrays
            return {name: np.asarray(value) for name, value in outputs.items()}
        return outputs


def _tensors(interpreter: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Inputs and outputs by name: the keys of the file's one signature; without it, the tensors' names."""
    signatures = list(interpreter.get_signature_list())
    if len(signatures) == 1:
        # the runner is dropped on return: while it lives, the interpreter refuses to run by tensor index
        runner = interpreter.get_signature_runner(signatures[0])
        return runner.get_input_details(), runner.get_output_details()
    return (
        {details["name"]: details for details in interpreter.get_input_details()},
        {details["name"]: details for details in interpreter.get_output_details()},
    )


def _declared(details: Mapping[str, Any]) -> FileTensor:
    shape = tuple(int(size) if size >= 0 else None for size in details["shape_signature"])
    if len(shape) != len(details["shape"]):  # files of old converters have no shape signature
        shape = tuple(int(size) for size in details["shape"])
    return FileTensor(shape, dtype_name(details["dtype"]))
