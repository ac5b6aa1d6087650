"""The outputs of a quantised TFLite file are the float file's own, also where the network goes on from them.

ai-edge-quantizer puts a DEQUANTIZE behind an output. Where something inside reads that output as well, it
leaves the signature at the 8-bit tensor before it, or takes for the output a QUANTIZE that is that reader's:
an interpreter then hands out integers, or memory that it has used for something else since. And a reader that
only moves values (RESHAPE, MAX_POOL_2D) is left with a float32 input and an 8-bit output.
"""

from __future__ import annotations

from typing import Any

from bnfold.errors import ExportError
from bnfold.quantize import tflite_file


def restore(model: Any, before: Any) -> None:
    """Make the outputs of ``model``, in its graph and in its signature, the floating ones that they were.

    What else reads them gets values of the type that it works on.

    Args:
        model: a quantised ``ModelT``; edited. A quantizer keeps the tensors that were there, and adds more.
        before: the float ``ModelT`` that it was made from.

    Raises:
        ExportError: BNF-E052 an output is not to be found any more.
    """
    outputs = [int(index) for index in before.subgraphs[0].outputs]
    found = {index: _same(model, index, before.subgraphs[0].tensors[index]) for index in outputs}
    model.subgraphs[0].outputs = [found[index] for index in outputs]
    for definition, was in zip(model.signatureDefs or [], before.signatureDefs or [], strict=True):
        tensors = {entry.name: found[int(entry.tensorIndex)] for entry in was.outputs}
        for entry in definition.outputs:
            entry.tensorIndex = tensors[entry.name]
    _read_what_is_written(model)


def _read_what_is_written(model: Any) -> None:
    """Let an operator that writes 8 bits read the 8-bit tensor, not what a DEQUANTIZE has made of it."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    operators = tflite_file.operator_names(model)
    source = {made: given for given, made in _dequantised(model)}
    for operator in graph.operators:
        written = {graph.tensors[index].type for index in operator.outputs}
        if operators[operator.opcodeIndex] != "QUANTIZE" and schema.TensorType.INT8 in written:
            operator.inputs = [source.get(int(index), int(index)) for index in operator.inputs]


def _same(model: Any, index: int, was: Any) -> int:
    """The tensor with the values of the one at ``index``, in the type that it had in the float file."""
    graph = model.subgraphs[0]
    behind = [made for given, made in _dequantised(model) if given == index]
    for candidate in (index, *behind):
        if graph.tensors[index].name == was.name and graph.tensors[candidate].type == was.type:
            return candidate
    raise ExportError(
        "BNF-E052",
        f"ai-edge-quantizer leaves nothing in the file that is the output {was.name.decode()}",
        where="TFLite, int8",
        fix="precision fp16, or --to onnx, and please report the model",
    )


def _dequantised(model: Any) -> list[tuple[int, int]]:
    """What each DEQUANTIZE reads, and what it writes."""
    operators = tflite_file.operator_names(model)
    return [
        (int(operator.inputs[0]), int(operator.outputs[0]))
        for operator in model.subgraphs[0].operators
        if operators[operator.opcodeIndex] == "DEQUANTIZE"
    ]
