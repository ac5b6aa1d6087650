"""A float32 file to one of a lower precision, whichever the format and the precision."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.errors import InternalError
from bnfold.quantize import Lowered
from bnfold.quantize.ranges import Ranges


def lower(
    target: str,
    precision: str,
    data: bytes,
    ranges: Ranges | None,
    runtime: str,
    floating: Sequence[str] = (),
) -> Lowered:
    """A file of a lower precision.

    Args:
        target: ``onnx`` or ``tflite``.
        precision: ``fp16`` or ``int8``.
        data: the float32 file, without its manifest.
        ranges: of its tensors; needed for ``int8``.
        runtime: what a TFLite file is for, as in :func:`bnfold.export.tflite.export`.
        floating: tensors whose operators stay in floating point where the rest becomes ``int8``.

    Raises:
        ExportError: BNF-E050, BNF-E052, BNF-E053, BNF-E013 as the modules of the formats.
        PlatformError: BNF-P070 the quantizer is not installed.
    """
    if precision == "fp16":
        from bnfold.quantize import half_onnx, half_tflite

        return half_onnx.lower(data) if target == "onnx" else half_tflite.lower(data)
    if precision != "int8" or ranges is None:
        raise InternalError("BNF-X070", f"{precision} was asked for, with ranges {ranges is not None}")
    from bnfold.quantize import int8_onnx, int8_tflite

    if target == "onnx":
        return int8_onnx.lower(data, ranges, floating)
    return int8_tflite.lower(data, ranges, runtime, floating)
