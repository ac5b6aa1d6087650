"""A .tflite file as objects that can be edited, by the schema that ``ai-edge-litert`` brings along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def read(data: bytes) -> Any:
    """The schema's ``ModelT``, with every constant inside it, wherever the file keeps it."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # behind the flatbuffer; older interpreters do not look there
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def write(model: Any) -> bytes:
    """The file's bytes: the same for the same model."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def shape(tensor: Any) -> tuple[int, ...]:
    """Of a ``TensorT``; a scalar has none."""
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether a ``TensorT`` has its value in the file."""
    raw = model.buffers[tensor.buffer].data
    return raw is not None and len(raw) > 0


def values(model: Any, tensor: Any, dtype: DTypeLike) -> NDArray[Any]:
    """Of a constant ``TensorT``; ``dtype`` is its own."""
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype).reshape(shape(tensor))


def add_buffer(model: Any, values: NDArray[Any]) -> int:
    """A constant's bytes in a buffer of their own, which tensors refer to by the number that is returned."""
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def operator_names(model: Any) -> list[str]:
    """The operator codes' names, in their order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return [names.get(code, f"operator {code}") for code in codes]


def operator(model: Any, name: str, version: int, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    """An ``OperatorT`` without options; its code is added to the model where it is not there yet."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.OperatorT()
    made.opcodeIndex = _code(model, getattr(schema.BuiltinOperator, name), version)
    made.inputs, made.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    return made


def _code(model: Any, builtin: int, version: int) -> int:
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            code.version = max(code.version, version)
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def drop_unread_buffers(model: Any) -> None:
    """Empty the buffers that no tensor and no metadata refers to."""
    read = {int(tensor.buffer) for graph in model.subgraphs for tensor in graph.tensors}
    read |= {int(entry.buffer) for entry in model.metadata or []}
    for index, buffer in enumerate(model.buffers):
        if index not in read:
            buffer.data = None
