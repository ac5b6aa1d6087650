"""ONNX with float16 weights: each becomes float16, and a Cast makes float32 of it when the file is opened.

onnxruntime evaluates a Cast of a constant once, on opening; what runs per frame is the float32 graph. It has
no float16 kernels for CPUs worth their name, so computing in float16 would be the same with more casts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from bnfold.quantize import Lowered
from bnfold.quantize.half import Halves

if TYPE_CHECKING:
    import onnx


def lower(data: bytes) -> Lowered:
    """An ONNX file with float16 weights.

    Args:
        data: the float32 file.

    Raises:
        ExportError: BNF-E050 a weight is beyond the range of float16.
    """
    import onnx

    model = onnx.load_from_string(data)
    halves = Halves("ONNX")
    halve(model, halves)
    return Lowered(
        model.SerializeToString(deterministic=True),
        weights="float16",
        activations="float32",
        findings=halves.findings(),
    )


def halve(model: onnx.ModelProto, halves: Halves, *, but: Collection[str] = ()) -> None:
    """Replace the float32 initializers of a graph, in place, save those named in ``but``."""
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT or initializer.name in but:
            continue
        name = initializer.name
        half = halves.of(name, numpy_helper.to_array(initializer))
        if half is None:
            continue
        stored = f"{name}.half"
        initializer.CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(
            onnx.helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
