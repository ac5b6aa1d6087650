"""ONNX in int8, by onnxruntime's own static quantizer: QuantizeLinear and DequantizeLinear around operators.

Activations are uint8 with a zero point, weights int8 per channel and symmetric, in the range of 7 bits: x86
CPUs without VNNI add pairs of products in 16 bits, which full 8-bit weights overflow silently (255 * 127 +
255 * 127), so that a file that was right here would be wrong there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.errors import ExportError
from bnfold.export.quiet import quiet
from bnfold.finding import Finding
from bnfold.quantize import Lowered
from bnfold.quantize import floating as left
from bnfold.quantize.half import Halves
from bnfold.quantize.half_onnx import halve
from bnfold.quantize.ranges import Ranges

if TYPE_CHECKING:
    import onnx

_ADDED = ("_scale", "_zero_point", "_quantized", "_QuantizeLinear_Output", "_DequantizeLinear_Output")
"""What the quantizer appends to names; they are said in every operator and would fill the file."""


def lower(data: bytes, ranges: Ranges, floating: Sequence[str] = ()) -> Lowered:
    """An ONNX file with 8-bit weights and activations.

    Args:
        data: the float32 file.
        ranges: of its tensors.
        floating: tensors whose operators stay in floating point.

    Raises:
        ExportError: the quantizer fails (BNF-E052), or finds nothing to quantise (BNF-E053); BNF-E050 a
            weight that stays floating is beyond the range of float16.
    """
    import onnx

    float_model = onnx.load_from_string(data)
    kept = {initializer.name for initializer in float_model.graph.initializer}
    with quiet() as printed:
        try:
            model = _quantize(float_model, ranges, floating)
        except Exception as error:
            raise ExportError(
                "BNF-E052",
                f"onnxruntime's quantizer cannot quantise this network: {error}",
                where="ONNX, int8",
                fix="precision fp16, and please report the model",
            ) from error
    integer = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    if not integer:
        raise ExportError(
            "BNF-E053",
            "nothing in this network has an integer kernel",
            where="ONNX, int8",
            fix="precision fp16",
        )
    halves = Halves("ONNX")
    made = {initializer.name for initializer in model.graph.initializer} - kept
    halve(model, halves, but=made)
    tensors = _dequantized(model)
    renamed = _shorten(model)
    return Lowered(
        model.SerializeToString(deterministic=True),
        weights="int8, 7 bits of it, per channel" + (", some float16" if halves.count else ""),
        activations="uint8",
        libraries={"onnxruntime": _version()},
        findings=[*_left_floating(model, floating), *halves.findings()],
        tensors={name: renamed.get(other, other) for name, other in tensors.items()},
        log=printed.text,
    )


def _version() -> str:
    from bnfold.export.source import library_versions

    return library_versions("onnxruntime")["onnxruntime"]


def _quantize(model: onnx.ModelProto, ranges: Ranges, floating: Sequence[str]) -> onnx.ModelProto:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    limits = {
        name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ranges.items()
    }
    left_out = []
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
        if not set(floating).isdisjoint(node.output):
            left_out.append(node.name)
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[],
        nodes_to_exclude=left_out,
        op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry}),
        extra_options={},
    )
    quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    del made.graph.value_info[:]  # the interpreter infers them again
    made.producer_name, made.producer_version = model.producer_name, model.producer_version
    return made


def _dequantized(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor -> the tensor that stands for it once it went through 8 bits."""
    quantized = {
        node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"
    }
    back = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {name: back[codes] for name, codes in quantized.items() if codes in back}


def _left_floating(model: onnx.ModelProto, meant: Sequence[str]) -> list[Finding]:
    """Operators that read a weight and have no 8-bit input, but for those ``meant`` to have none."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    floating = [
        node
        for node in model.graph.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear", "Cast")
        and set(meant).isdisjoint(node.output)
        and any(made_by.get(name) == "Cast" for name in node.input)
    ]
    return left.findings("onnx", [node.op_type for node in floating])


def _shorten(model: onnx.ModelProto) -> dict[str, str]:
    """Short names for what the quantizer added, equal constants once, no names of nodes. Old -> new name."""
    graph = model.graph
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names: dict[str, str] = {}
    kept = []
    for initializer in graph.initializer:
        key = (initializer.data_type, tuple(initializer.dims), _raw(initializer))
        small = initializer.name.endswith(("_scale", "_zero_point"))
        if small and key in first:
            names[initializer.name] = first[key]
            continue
        kept.append(initializer)
        if initializer.name.endswith(_ADDED):
            names[initializer.name] = f"q{len(names)}"
        if small:
            first[key] = names[initializer.name]
    borders = {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        node.name = ""
        for name in node.output:
            if name.endswith(_ADDED) and name not in borders:
                names.setdefault(name, f"q{len(names)}")
    for initializer in kept:
        initializer.name = names.get(initializer.name, initializer.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    constants = [_copy(initializer) for initializer in kept]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    return names


def _raw(initializer: Any) -> bytes:
    from onnx import numpy_helper

    return numpy_helper.to_array(initializer).tobytes()


def _copy(initializer: Any) -> Any:
    copy = type(initializer)()
    copy.CopyFrom(initializer)
    return copy
