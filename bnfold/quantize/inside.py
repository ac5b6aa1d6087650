"""Every value inside a model file: what ranges are taken from, and what a lower precision is compared on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.inner_values import Feeds, onnx_values, tflite_values
from bnfold.quantize import tflite_file

Array = NDArray[Any]


@dataclass(frozen=True)
class Step:
    """An operator of a file: its name, and the tensors that it reads and writes; no constants."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def values(target: str, data: bytes, calls: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
    """Every floating value of every call, by tensor name, as float32; 8-bit ones as what they stand for."""
    return (_onnx_values if target == "onnx" else _tflite_values)(data, calls)


def steps(target: str, data: bytes) -> list[Step]:
    """The operators in their order."""
    return (_onnx_steps if target == "onnx" else _tflite_steps)(data)


def _onnx_values(data: bytes, calls: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = onnx_values(data, options)
    for feeds in calls:
        yield {
            name: value
            for name, value in {**feeds, **run(feeds)}.items()
            if isinstance(value, np.ndarray) and value.dtype == np.float32
        }


def _onnx_steps(data: bytes) -> list[Step]:
    import onnx

    graph = onnx.load_from_string(data).graph
    constant = {initializer.name for initializer in graph.initializer}
    return [
        Step(
            node.op_type,
            tuple(name for name in node.input if name and name not in constant),
            tuple(name for name in node.output if name),
        )
        for node in graph.node
    ]


def _tflite_values(data: bytes, calls: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
    run = tflite_values(data)
    for feeds in calls:
        found = {}
        for detail, value in run(feeds):
            real = _real(value, detail["quantization_parameters"])
            if real is not None:
                found[detail["name"]] = real
        yield found


def _real(value: Array, how: Mapping[str, Any]) -> Array | None:
    if value.dtype == np.float32:
        return value
    scales = np.asarray(how["scales"], np.float32)
    if value.dtype != np.int8 or scales.size != 1:
        return None  # not a number of the network, or a weight
    return np.asarray((value.astype(np.float32) - how["zero_points"][0]) * scales[0])


def _tflite_steps(data: bytes) -> list[Step]:
    model = tflite_file.read(data)
    graph = model.subgraphs[0]
    operators = tflite_file.operator_names(model)

    def names(indices: Iterable[int]) -> tuple[str, ...]:
        tensors = [graph.tensors[index] for index in indices if index >= 0]
        return tuple(t.name.decode() for t in tensors if not tflite_file.is_constant(model, t))

    return [
        Step(operators[operator.opcodeIndex], names(operator.inputs), names(operator.outputs))
        for operator in graph.operators
    ]
