"""Small ONNX artifacts, node by node, so that their answers are known by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnx import TensorProto, helper, numpy_helper

from bnfold import manifest

# name -> (dtype, shape)
Tensors = dict[str, tuple[str, list[int | None]]]


def onnx_bytes(nodes: list[Any], inputs: Tensors, outputs: Tensors, weights: Any = None) -> bytes:
    """A serialized model; a None in a shape becomes the symbolic axis ``batch``."""

    def told(tensors: Tensors) -> list[Any]:
        return [
            helper.make_tensor_value_info(
                name,
                getattr(TensorProto, {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())),
                ["batch" if size is None else size for size in shape],
            )
            for name, (dtype, shape) in tensors.items()
        ]

    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", told(inputs), told(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


def document(inputs: Tensors, outputs: Tensors, **more: Any) -> dict[str, Any]:
    """A manifest; the file's own names of the tensors are bnfold's with ``_`` before them."""

    def told(tensors: Tensors) -> list[dict[str, Any]]:
        return [
            {"name": name.removeprefix("_"), "tensor": name, "shape": shape, "dtype": dtype}
            for name, (dtype, shape) in tensors.items()
        ]

    return {
        "schema": 1, "bnfold": "0.1.0", "name": "small", "target": "onnx", "role": "clean",
        "precision": "fp32", "source": None, "libraries": {}, "golden": None, "labels": None,
        "inputs": [{**entry, "normalisation": None} for entry in told(inputs)], "outputs": told(outputs),
        "batch_norms": [], "parity": [], "noise_floor": {}, "runs_on": [], **more,
    }  # fmt: skip


def artifact(folder: Path, nodes: list[Any], inputs: Tensors, outputs: Tensors, **more: Any) -> Path:
    """Written to ``small.onnx``."""
    weights = more.pop("weights", None)
    data = onnx_bytes(nodes, inputs, outputs, weights)
    path = folder / "small.onnx"
    path.write_bytes(manifest.embed_onnx(data, document(inputs, outputs, **more)))
    return path
