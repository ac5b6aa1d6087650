"""Biases that do not fit into the 32 bits of an int8 TFLite layer, as those of dead channels.

A bias is stored in units of the input's scale times its channel's weight scale. Where a BatchNorm's gamma is
0 or nearly so, the folded weights of the channel are, too, and with them the scale: the constant that the
channel answers would take more than 32 bits, and the quantizer cuts it off. Such a channel gets a larger
weight scale. Its weights lose precision that does not count: what they add is a millionth of the constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.quantize import tflite_file

_LIMIT = 2**30  # of 2^31: the sum of the products comes on top
_OPERANDS = {  # input, weight, bias
    "CONV_2D": (0, 1, 2), "DEPTHWISE_CONV_2D": (0, 1, 2), "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}  # fmt: skip


@dataclass(frozen=True)
class _Layer:
    """``weight`` (its number) and ``bias`` of the quantised file; ``exact``: the float file's bias."""

    input_scale: float
    weight: int
    bias: Any
    exact: NDArray[np.float64]


def widen(model: Any, original: Any) -> int:
    """Give every channel whose bias was cut off the scale that holds it, in place.

    Args:
        model: the quantised file's ``ModelT``.
        original: the float file's.

    Returns:
        how many channels.
    """
    layers, tensors = list(_layers(model, original)), model.subgraphs[0].tensors
    scales: dict[int, NDArray[np.float64]] = {}
    for layer in layers:  # layers may share their weight
        scale = scales.get(layer.weight, _scale(tensors[layer.weight]))
        least = np.abs(layer.exact) / (layer.input_scale * _LIMIT)
        scales[layer.weight] = np.maximum(scale, least if len(scale) > 1 else least.max(initial=0))
    grown = {index: scale > _scale(tensors[index]) for index, scale in scales.items()}
    for index, scale in scales.items():
        if grown[index].any():
            _store_weight(model, tensors[index], scale)
    for layer in layers:
        where = grown[layer.weight]
        if where.any():
            scale = np.where(where, layer.input_scale * scales[layer.weight], _scale(layer.bias))
            kept = tflite_file.values(model, layer.bias, np.int32)
            bias = np.where(where, np.rint(layer.exact / scale), kept).astype(np.int32)
            _store(model, layer.bias, bias, scale)
    return sum(int(where.sum()) for where in grown.values())


def _layers(model: Any, original: Any) -> Iterator[_Layer]:
    """Those with weights and a bias of integers."""
    exact = {name: operator for _, operator, name in _operators(original)}
    tensors, theirs = model.subgraphs[0].tensors, original.subgraphs[0].tensors
    for kind, operator, name in _operators(model):
        given, weight, bias = (_operand(operator, place) for place in _OPERANDS[kind])
        source = exact.get(name)
        if bias < 0 or source is None or tensors[bias].quantization is None:
            continue
        found = _operand(source, _OPERANDS[kind][2])
        if found < 0 or tensors[weight].quantization is None or not len(_scale(tensors[bias])):
            continue
        yield _Layer(
            float(_scale(tensors[given])[0]),
            weight,
            tensors[bias],
            tflite_file.values(original, theirs[found], np.float32).astype(np.float64),
        )


def _operators(model: Any) -> Iterator[tuple[str, Any, str]]:
    """Kind, operator and the name of its result, of the layers that have weights."""
    names, graph = tflite_file.operator_names(model), model.subgraphs[0]
    for operator in graph.operators:
        if (kind := names[operator.opcodeIndex]) in _OPERANDS:
            yield kind, operator, graph.tensors[operator.outputs[0]].name.decode()


def _operand(operator: Any, place: int) -> int:
    return int(operator.inputs[place]) if place < len(operator.inputs) else -1


def _scale(tensor: Any) -> NDArray[np.float64]:
    how = tensor.quantization
    return np.asarray([] if how is None or how.scale is None else how.scale, np.float64)


def _store_weight(model: Any, tensor: Any, scale: NDArray[np.float64]) -> None:
    axes = [1] * len(tflite_file.shape(tensor))
    axes[tensor.quantization.quantizedDimension if len(scale) > 1 else 0] = len(scale)
    narrower = (_scale(tensor) / scale).reshape(axes)
    values = tflite_file.values(model, tensor, np.int8)
    _store(model, tensor, np.rint(values * narrower).astype(np.int8), scale)


def _store(model: Any, tensor: Any, values: NDArray[Any], scale: NDArray[np.float64]) -> None:
    """In a buffer of its own: equal tensors may share one."""
    tensor.buffer = tflite_file.add_buffer(model, values)
    tensor.quantization.scale = scale.astype(np.float32)
