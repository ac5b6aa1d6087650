"""TFLite in int8, by ai-edge-quantizer: static, int8 weights per channel, int8 activations.

Inputs and outputs stay float32: the file begins with QUANTIZE and ends with DEQUANTIZE.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnfold.errors import ExportError, PlatformError
from bnfold.export import TFLITE_2_14
from bnfold.export.quiet import quiet
from bnfold.export.source import library_versions
from bnfold.export.tflite import require_known_operators
from bnfold.export.tflite_inspect import describe
from bnfold.finding import Finding
from bnfold.quantize import Lowered, bias_range, tflite_file, tflite_outputs
from bnfold.quantize import floating as left
from bnfold.quantize.half import Halves
from bnfold.quantize.half_tflite import halve
from bnfold.quantize.ranges import Ranges


def lower(
    data: bytes, ranges: Ranges, runtime: str = TFLITE_2_14, floating: Sequence[str] = ()
) -> Lowered:
    """A TFLite file with 8-bit weights and activations.

    Args:
        data: the float32 file.
        ranges: of its tensors.
        runtime: what it is for, as in :func:`bnfold.export.tflite.export`.
        floating: tensors whose operators stay in floating point.

    Raises:
        ExportError: the quantizer fails, gives a scale that is no number or loses an output (BNF-E052), or
            finds nothing to quantise (BNF-E053); BNF-E050 a weight that stays floating is beyond the range of
            float16; BNF-E013 it makes an operator that tflite-runtime does not know.
        PlatformError: BNF-P070 ai-edge-quantizer is not installed.
    """
    if importlib.util.find_spec("ai_edge_quantizer") is None:
        raise PlatformError(
            "BNF-P070",
            "TFLite in int8 needs ai-edge-quantizer, which is not installed here",
            fix="pip install 'bnfold[tflite]'",
        )
    with quiet() as printed:
        try:
            made = _quantize(data, ranges, floating)
        except Exception as error:
            raise ExportError(
                "BNF-E052",
                f"ai-edge-quantizer cannot quantise this network: {error}",
                where="TFLite, int8",
                fix="precision fp16, and please report the model",
            ) from error
    model = tflite_file.read(made)
    _check(model)
    before = tflite_file.read(data)
    bias_range.widen(model, before)
    tflite_outputs.restore(model, before)
    halves = Halves("TFLite")
    findings = _left_floating(model, floating)
    halve(model, halves)
    written = tflite_file.write(model)
    if runtime == TFLITE_2_14:
        require_known_operators(describe(written))
    return Lowered(
        written,
        weights="int8, per channel" + (", some float16" if halves.count else ""),
        activations="int8",
        libraries=library_versions("ai-edge-quantizer"),
        findings=[*findings, *halves.findings()],
        log=printed.text,
    )


def _quantize(data: bytes, ranges: Ranges, floating: Sequence[str]) -> bytes:
    from ai_edge_quantizer import qtyping, quantizer

    made = quantizer.Quantizer(data)
    made.add_static_config(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
        weight_granularity=qtyping.QuantGranularity.CHANNELWISE,
    )
    for border in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        made.update_quantization_recipe(".*", border, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)
    for name in floating:
        made.update_quantization_recipe(
            re.escape(name),
            qtyping.TFLOperationName.ALL_SUPPORTED,
            algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
        )
    model = tflite_file.read(data)
    # of activations only: the quantizer takes the range of each channel of a weight from the weight itself
    rank = {
        tensor.name.decode(): len(tflite_file.shape(tensor))
        for tensor in model.subgraphs[0].tensors
        if not tflite_file.is_constant(model, tensor)
    }
    limits = {
        name: {
            "min": np.full((1,) * rank[name], low, np.float32),
            "max": np.full((1,) * rank[name], high, np.float32),
        }
        for name, (low, high) in ranges.items()
        if name in rank
    }
    result = made.quantize(limits, enable_progress_bar=False, enable_progress_report=False)
    assert result.quantized_model is not None
    return bytes(result.quantized_model)


def _check(model: Any) -> None:
    """Scales that are no numbers end the process in the interpreter, not in an exception."""
    integer = False
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            how = tensor.quantization
            if how is None or how.scale is None or len(how.scale) == 0:
                continue
            integer = True
            scales = np.asarray(how.scale)
            if not (np.isfinite(scales).all() and (scales > 0).all()):
                raise ExportError(
                    "BNF-E052",
                    f"ai-edge-quantizer gives {tensor.name.decode()} a scale of {scales.min():.3g}",
                    where="TFLite, int8",
                    fix="precision fp16, and please report the model",
                )
    if not integer:
        raise ExportError(
            "BNF-E053",
            "nothing in this network has an integer kernel",
            where="TFLite, int8",
            fix="precision fp16",
        )


def _left_floating(model: Any, meant: Sequence[str]) -> list[Finding]:
    """Operators with floating weights of their own, but for those that were ``meant`` to stay so."""
    from ai_edge_litert import schema_py_generated as schema

    operators = tflite_file.operator_names(model)
    left_out: list[str] = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            if not {graph.tensors[index].name.decode() for index in operator.outputs}.isdisjoint(meant):
                continue
            read = [graph.tensors[index] for index in operator.inputs if index >= 0]
            if any(
                tensor.type == schema.TensorType.FLOAT32
                and tflite_file.is_constant(model, tensor)
                and np.prod(tflite_file.shape(tensor)) > 1
                for tensor in read
            ):
                left_out.append(operators[operator.opcodeIndex])
    return left.findings("tflite", left_out)
