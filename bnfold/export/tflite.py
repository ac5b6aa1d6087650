"""Graph -> TFLite, by ``litert-torch`` (no TensorFlow)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from bnfold.channels_last import to_file
from bnfold.errors import ExportError, InternalError, PlatformError
from bnfold.export import (
    SIZE_LIMIT,
    TFLITE_2_14,
    Exported,
    forms,
    rewrite,
    rewrite_conv,
    rewrite_pool,
    rewrite_power,
    rewrite_repeat,
    rewrite_resize,
    rewrite_split,
    shapes,
)
from bnfold.export.crosscheck import Array, crosscheck
from bnfold.export.failures import explain
from bnfold.export.permute import take_channels_last
from bnfold.export.quiet import quiet, same_randomness
from bnfold.export.source import (
    check_size,
    library_versions,
    private_copy,
    propagate,
    require_no_batch_norm,
    without_user_names,
)
from bnfold.export.swift import swift
from bnfold.export.tflite_inspect import Description, describe, maker, operator_table, unknown_operators
from bnfold.garbage import rarely_collected
from bnfold.signature import TensorSpec

REWRITES = (
    *rewrite_conv.REWRITES,
    *rewrite_pool.REWRITES,
    *rewrite_power.REWRITES,
    *rewrite_repeat.REWRITES,
    *rewrite_resize.REWRITES,
    *rewrite_split.REWRITES,
)


@rarely_collected()
def export(
    body: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    example: tuple[torch.Tensor, ...],
    channels_last: frozenset[str] = frozenset(),
    runtime: str = TFLITE_2_14,
) -> Exported:
    """Write a graph as TFLite and run the file once in ai-edge-litert.

    Args:
        body: flat tensors in, a flat tuple of tensors out; it is not changed. A graph without BatchNorm.
        inputs: its inputs in order, of fixed shapes.
        outputs: its outputs in order.
        example: one tensor per input.
        channels_last: names of the inputs that the file takes channels last; ``body`` takes them second.
        runtime: ``tflite-2.14``: only operators that tflite-runtime 2.14.0 knows; ``litert``: whatever
            ai-edge-litert runs.

    The file has one signature; ``Exported.inputs`` and ``.outputs`` map to the keys of that signature.

    Raises:
        ExportError: more than 2 GB (BNF-E002), a symbolic batch axis (BNF-E003), an operator that the
            converter lacks (BNF-E004, BNF-E010) or tflite-runtime does (BNF-E013), another failure of the
            converter (BNF-E005), outputs that are no tensors or constant (BNF-E006, BNF-E007), a file that
            computes something else (BNF-E008) or does not run (BNF-E009), arguments that do not fit together
            (BNF-E011).
        PlatformError: the packages of the extra ``tflite`` are not installed (BNF-P030).
        InternalError: a BatchNorm is left in the graph (BNF-X042), or the file is not as the converter
            promises (BNF-X043).
    """
    _require_packages()
    _require_fixed_shapes(inputs, outputs)
    check_size(body, "TFLite")
    module = private_copy(body, inputs, outputs, example)
    require_no_batch_norm(module)
    with quiet() as printed, same_randomness():
        try:
            propagate(module, example)
        except Exception as error:
            raise explain(error, module, "tflite") from error
        shapes.shorten(module)
        forms.choose(module, forms.TFLITE)
        rewrite_repeat.spare_expansions(module)
        rewrite.apply(module, rewrite_repeat.FIRST, "TFLite")
        rewrite.apply(module, REWRITES, "TFLite")
        fitting = take_channels_last(module, inputs, example, channels_last) if channels_last else example
        data = _convert(module, fitting, _needs_64_bits(inputs, outputs))
        description = describe(data)
        file_inputs, file_outputs = _names(description, inputs, outputs)
    if len(data) > SIZE_LIMIT:
        raise ExportError(
            "BNF-E002", f"the TFLite file would be {len(data):,} bytes; one file holds at most 2 GB"
        )
    if runtime == TFLITE_2_14:
        require_known_operators(description)
    with quiet():
        run = _runner(data, file_inputs, file_outputs, channels_last)
        crosscheck(body, inputs, outputs, example, run, "ai-edge-litert")
    version = library_versions("ai-edge-litert")["ai-edge-litert"]
    runs_on = [{"runtime": "ai-edge-litert", "version": version, "basis": "ran"}]
    if runtime == TFLITE_2_14:
        table = operator_table()
        runs_on.append({"runtime": table["runtime"], "version": table["version"], "basis": "operator table"})
    return Exported(
        data=data,
        inputs=file_inputs,
        outputs=file_outputs,
        libraries=library_versions("torch", "litert-torch", "ai-edge-litert"),
        runs_on=runs_on,
        layers={name: layer for name in description.tensors if (layer := maker(name))},
        log=printed.text,
        channels_last=channels_last,
    )


def _require_packages() -> None:
    packages = {"litert_torch": "litert-torch", "ai_edge_litert": "ai-edge-litert"}
    missing = [package for name, package in packages.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise PlatformError(
            "BNF-P030",
            f"writing TFLite needs {', '.join(missing)}, not installed here",
            fix="pip install 'bnfold[tflite]', or use --to onnx",
        )


def _require_fixed_shapes(*specs: tuple[TensorSpec, ...]) -> None:
    for spec in (spec for group in specs for spec in group):
        if None in spec.shape:
            raise ExportError(
                "BNF-E003",
                f"TFLite needs a fixed batch size, and {spec.describe()} has a symbolic one",
                where=spec.name,
                fix="leave out --dynamic-batch, or use --to onnx",
            )


def _needs_64_bits(*specs: tuple[TensorSpec, ...]) -> bool:
    """The converter narrows 64-bit types, inputs and outputs included; bnfold's signature is kept as it is.

    Where no 64-bit tensor is seen from outside, the narrow types are left: more kernels exist for them.
    """
    return any(spec.dtype in ("int64", "float64", "uint64") for group in specs for spec in group)


def _convert(module: fx.GraphModule, example: tuple[torch.Tensor, ...], wide: bool) -> bytes:
    try:
        import litert_torch
    except Exception as error:
        raise PlatformError(
            "BNF-P031",
            f"litert-torch is installed but does not load: {error}",
            fix="reinstall it with: pip install 'bnfold[tflite]'",
        ) from error
    anonymous = without_user_names(module)
    try:
        with swift(anonymous, example):
            data = litert_torch.convert(anonymous, example, enable_x64=wide).model_content()
    except Exception as error:
        raise explain(error, module, "tflite") from error
    return bytes(data)


def _names(
    description: Description, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[dict[str, str], dict[str, str]]:
    """bnfold's names -> keys of the signature, which number the flat arguments and results.

    The file's own order and tensor names say nothing; that the keys do is proved by :func:`crosscheck`.
    """
    file_inputs = {spec.name: f"args_{number}" for number, spec in enumerate(inputs)}
    file_outputs = {spec.name: f"output_{number}" for number, spec in enumerate(outputs)}
    found = set(description.inputs), set(description.outputs)
    if found != (set(file_inputs.values()), set(file_outputs.values())):
        raise InternalError(
            "BNF-X043",
            f"the file's signature has inputs {sorted(found[0])} and outputs {sorted(found[1])}, the network "
            f"{len(inputs)} and {len(outputs)}",
            where="TFLite",
        )
    return file_inputs, file_outputs


def require_known_operators(description: Description) -> None:
    """Refuse what tflite-runtime cannot run.

    Raises:
        ExportError: BNF-E013.
    """
    unknown = unknown_operators(description.operators)
    if unknown:
        table = operator_table()
        raise ExportError(
            "BNF-E013",
            f"{table['runtime']} {table['version']} lacks {', '.join(map(str, unknown))}, which "
            "the converter made of this network",
            where=str(unknown[0]),
            fix="replace the operator in the model, use --to onnx, or --runtime litert: ai-edge-litert alone",
        )


def _runner(data: bytes, inputs: Mapping[str, str], outputs: Mapping[str, str], moved: frozenset[str]) -> Any:
    """A function that runs the file: arrays by bnfold's names in and out, in the network's order."""

    def run(arrays: dict[str, Array]) -> dict[str, Array]:
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(model_content=data, num_threads=1).get_signature_runner()
        values = runner(**{inputs[name]: array for name, array in to_file(arrays, moved).items()})
        return {name: values[key] for name, key in outputs.items()}

    return run
