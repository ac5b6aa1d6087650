"""Graph -> ONNX, by ``torch.onnx.export`` (the exporter built on ``torch.export``)."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn

from bnfold.errors import ExportError, InternalError, PlatformError
from bnfold.export import SIZE_LIMIT, Exported, forms, rewrite, rewrite_onnx, shapes
from bnfold.export.crosscheck import Array, crosscheck
from bnfold.export.failures import explain
from bnfold.export.onnx_names import distinct_names, maker, rename_tensors
from bnfold.export.onnx_taps import pool_globally
from bnfold.export.quiet import quiet, same_randomness
from bnfold.export.source import check_size, library_versions, private_copy, propagate, require_no_batch_norm
from bnfold.garbage import rarely_collected
from bnfold.signature import TensorSpec

if TYPE_CHECKING:
    import onnx

DEFAULT_OPSET = 20
"""torch.onnx.export's own default; from here on a GELU is one operator and not five."""

OPSETS = range(18, 26)
"""What the exporter and onnxscript's version converter write. Older ones would go through a converter that
keeps opset 18, with a warning only, where it fails."""

_BATCH = "batch"


@rarely_collected()
def export(
    body: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    example: tuple[torch.Tensor, ...],
    *,
    opset: int | None = None,
    dynamic_batch: bool = False,
    taps: int = 0,
) -> Exported:
    """Write a graph as ONNX and run the file once in onnxruntime.

    Args:
        body: flat tensors in, a flat tuple of tensors out; it is not changed. A graph without BatchNorm.
        inputs: its inputs in order; None in a shape is the symbolic batch axis.
        outputs: its outputs in order.
        example: one tensor per input.
        opset: of the ``ai.onnx`` domain; ``DEFAULT_OPSET`` if None.
        dynamic_batch: keep the axes that are None in ``inputs`` symbolic, under the name ``batch``.
        taps: how many of the outputs, the last ones, are channel means of a monitored file.

    Raises:
        ExportError: an unsupported opset (BNF-E001), more than 2 GB (BNF-E002), an operator that ONNX lacks
            (BNF-E004, BNF-E010), another failure of the exporter (BNF-E005), outputs that are no tensors or
            constant (BNF-E006, BNF-E007), a file that computes something else (BNF-E008) or does not run
            (BNF-E009), arguments that do not fit together (BNF-E011), a batch axis that cannot stay symbolic
            (BNF-E012).
        PlatformError: the packages of the extra ``convert`` are not installed (BNF-P030).
        InternalError: a BatchNorm is left (BNF-X042), or it is no valid ONNX (BNF-X043).
    """
    _require_packages()
    wanted = DEFAULT_OPSET if opset is None else opset
    if wanted not in OPSETS:
        raise ExportError(
            "BNF-E001",
            f"ONNX opset {wanted} cannot be written: only {OPSETS[0]} to {OPSETS[-1]}",
            where="--opset",
            fix=f"leave the option out (opset {DEFAULT_OPSET}), or name one of these",
        )
    check_size(body, "ONNX")
    symbols = None
    if dynamic_batch:
        example = tuple(_batch_of(tensor, spec, 2) for tensor, spec in zip(example, inputs, strict=True))
        symbols = _symbolic_shapes(inputs)
    module = private_copy(body, inputs, outputs, example, symbols)
    require_no_batch_norm(module)  # here, since the exporter folds a plain pair on its own
    with quiet() as printed, same_randomness():
        if symbols is None:
            propagate(module, example)
            shapes.shorten(module)
        forms.choose(module, forms.ONNX)
        if symbols is None:
            rewrite.apply(module, rewrite_onnx.REWRITES, "ONNX")
        model = _translate(module, example, symbols, wanted)
    if taps:
        pool_globally(model, taps)
    makers = [maker(node) for node in model.graph.node]
    _strip(model)
    file_inputs, file_outputs = _name(model, inputs, outputs)
    data = _serialize(model, wanted)
    with quiet():
        examples = [example]
        if dynamic_batch:  # a file that works for one batch size only is found by another
            examples.append(tuple(_batch_of(t, spec, 3) for t, spec in zip(example, inputs, strict=True)))
        for tensors in examples:
            crosscheck(
                body, inputs, outputs, tensors, _runner(data, file_inputs, file_outputs), "onnxruntime"
            )
    version = library_versions("onnxruntime")["onnxruntime"]
    return Exported(
        data=data,
        inputs=file_inputs,
        outputs=file_outputs,
        libraries=library_versions("torch", "onnx", "onnxscript"),
        runs_on=[{"runtime": "onnxruntime", "version": version, "basis": "ran"}],
        layers={
            name: layer for node, layer in zip(model.graph.node, makers, strict=False) for name in node.output
        },
        log=printed.text,
    )


def _require_packages() -> None:
    packages = ("onnx", "onnxscript", "onnxruntime")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise PlatformError(
            "BNF-P030",
            f"writing ONNX needs {', '.join(missing)}, not installed here",
            fix="pip install 'bnfold[convert]'",
        )


def _batch_of(tensor: torch.Tensor, spec: TensorSpec, size: int) -> torch.Tensor:
    """The tensor with ``size`` frames. torch.export takes an axis of length 1 for a constant one."""
    if None not in spec.shape:
        return tensor
    axis = spec.shape.index(None)
    index = torch.arange(size) % tensor.shape[axis]
    return tensor.index_select(axis, index)


def _symbolic_shapes(inputs: tuple[TensorSpec, ...]) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim(_BATCH, min=1)
    return tuple(
        {axis: batch for axis, size in enumerate(spec.shape) if size is None}  # one symbol for all inputs
        for spec in inputs
    )


def _translate(
    module: fx.GraphModule,
    example: tuple[torch.Tensor, ...],
    shapes: tuple[dict[int, Any], ...] | None,
    opset: int,
) -> onnx.ModelProto:
    try:
        program = torch.export.export(module, example, dynamic_shapes=shapes)
    except Exception as error:
        if shapes is not None:
            raise ExportError(
                "BNF-E012",
                "the batch axis cannot stay symbolic: the network computes with its length",
                where=_first_constraint(error),
                fix="leave out --dynamic-batch",
            ) from error
        raise explain(error, module, "onnx") from error
    try:
        written = torch.onnx.export(
            program, dynamo=True, external_data=False, opset_version=opset, verbose=False
        )
        assert written is not None
        return written.model_proto
    except Exception as error:
        raise explain(error, module, "onnx") from error


def _first_constraint(error: Exception) -> str:
    """The line of torch.export's long message that says what fixed the axis."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    for word in ("specialized it", "inferred to be", _BATCH):
        for line in lines:
            if word in line:
                return line.split(". ")[0][:200]
    return lines[0][:200] if lines else ""


def _strip(model: onnx.ModelProto) -> None:
    """Drop doc strings and metadata: they hold stack traces with paths of the machine."""
    model.doc_string = ""
    del model.metadata_props[:]
    for scope in (model.graph, *model.functions):
        _strip_scope(scope)


def _strip_scope(scope: Any) -> None:
    """``scope``: a GraphProto or a FunctionProto."""
    scope.doc_string = ""
    del scope.metadata_props[:]
    described = [*scope.value_info]
    for field in ("input", "output", "initializer", "sparse_initializer"):
        described += [item for item in getattr(scope, field, []) if not isinstance(item, str)]
    for item in described:
        if hasattr(item, "doc_string"):
            item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    for node in scope.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                _strip_scope(inner)


def _name(
    model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[dict[str, str], dict[str, str]]:
    """Give the file's tensors bnfold's names; an output named like an input gets another one.

    The exporter writes them in the order of the graph (:func:`crosscheck` proves it).
    """
    ours = [spec.name for spec in inputs], [spec.name for spec in outputs]
    graph = model.graph
    theirs = [value.name for value in graph.input], [value.name for value in graph.output]
    if [len(names) for names in ours] != [len(names) for names in theirs]:
        raise InternalError(
            "BNF-X043",
            f"the file has {len(theirs[0])} inputs and {len(theirs[1])} outputs, not {len(ours[0])} and "
            f"{len(ours[1])}",
        )
    chosen = distinct_names([*ours[0], *ours[1]])
    file_inputs, file_outputs = chosen[: len(inputs)], chosen[len(inputs) :]
    rename_tensors(graph, file_inputs, file_outputs)
    _name_batch_axis(graph, inputs)
    graph.name = "network"
    return dict(zip(ours[0], file_inputs, strict=True)), dict(zip(ours[1], file_outputs, strict=True))


def _name_batch_axis(graph: onnx.GraphProto, inputs: tuple[TensorSpec, ...]) -> None:
    """``batch`` for the symbol that torch made up (``s17``), in expressions such as ``2*s17`` too."""
    symbols = {
        value.type.tensor_type.shape.dim[spec.shape.index(None)].dim_param
        for spec, value in zip(inputs, graph.input, strict=True)
        if None in spec.shape
    } - {""}
    if not symbols:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, sorted(symbols))) + r")\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = pattern.sub(_BATCH, axis.dim_param)


def _serialize(model: onnx.ModelProto, opset: int) -> bytes:
    import onnx

    if any(node.op_type == "BatchNormalization" for node in model.graph.node):
        raise InternalError("BNF-X042", "a BatchNormalization is left in the ONNX file", where="ONNX")
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written.get("", opset) != opset:
        raise ExportError(
            "BNF-E001",
            f"ONNX opset {opset} cannot be written for this network: the translation stops at opset "
            f"{written['']}",
            where="--opset",
            fix=f"--opset {written['']}",
        )
    if model.ByteSize() > SIZE_LIMIT:
        raise ExportError(
            "BNF-E002", f"the ONNX file would be {model.ByteSize():,} bytes; one file holds at most 2 GB"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise InternalError("BNF-X043", f"the file is no valid ONNX: {error}", where="ONNX") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _runner(data: bytes, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Any:
    """A function that runs the file: arrays by bnfold's names in and out."""

    def run(arrays: dict[str, Array]) -> dict[str, Array]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        values = session.run(list(outputs.values()), {inputs[name]: array for name, array in arrays.items()})
        return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}

    return run
