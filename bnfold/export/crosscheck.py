"""One run of a written file against the network: it loads, the names are right, the function is the same.

This is no parity check (``bnfold.verify`` measures that against the noise floor). It tells tensors of one
shape apart, and stops a converter that wrote another function, before anything relies on the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from bnfold.errors import ExportError
from bnfold.numerics import max_abs, max_abs_error
from bnfold.signature import TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[dict[str, Array]], Mapping[str, Array]]

TOLERANCE = 0.02
"""Relative to max|y|. Swapped tensors and other functions are off by about 1; float32 by about 1e-6."""


def distinct_inputs(inputs: tuple[TensorSpec, ...], example: tuple[torch.Tensor, ...]) -> dict[str, Array]:
    """Seeded inputs that differ from each other, of the example's shapes and dtypes.

    Integers stay within the range of the example, which may be indices, but in another order.
    """
    generator = torch.Generator().manual_seed(20)
    result: dict[str, Array] = {}
    for spec, tensor in zip(inputs, example, strict=True):
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
        else:
            order = torch.randperm(tensor.numel(), generator=generator)
            values = tensor.detach().cpu().flatten()[order].reshape(tensor.shape)
        result[spec.name] = values.numpy()
    return result


def crosscheck(
    body: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    example: tuple[torch.Tensor, ...],
    run: Run,
    runtime: str,
) -> None:
    """Run ``body`` and the file (``run``: arrays by bnfold's names) on the same inputs.

    Raises:
        ExportError: the file does not run (BNF-E009), or an output has another shape, dtype or value than
            the network's (BNF-E008).
    """
    arrays = distinct_inputs(inputs, example)
    with torch.no_grad():
        result = body(*(torch.from_numpy(arrays[spec.name]) for spec in inputs))
    expected = (result,) if isinstance(result, torch.Tensor) else tuple(result)
    try:
        actual = run(arrays)
    except Exception as error:
        raise ExportError(
            "BNF-E009",
            f"the file was written, but {runtime} cannot run it: {_first_line(error)}",
            where=runtime,
            fix="another version of the interpreter, or --to onnx",
        ) from error
    for spec, tensor in zip(outputs, expected, strict=True):
        _compare(spec.name, actual[spec.name], tensor.detach().numpy(), runtime)


def _compare(name: str, actual: Array, expected: Array, runtime: str) -> None:
    def wrong(what: str) -> ExportError:
        return ExportError(
            "BNF-E008",
            f"in {runtime}, output {name!r} of the written file {what}",
            where=f"output {name!r}",
            fix="the exporter wrote another function; try the other format and please report the model",
        )

    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise wrong(f"is {actual.dtype} {actual.shape}, the network's is {expected.dtype} {expected.shape}")
    if max_abs(expected) == np.inf:  # a network that overflows on noise: verify has real frames for it
        return
    error, scale = max_abs_error(actual, expected), max_abs(expected)
    if error > TOLERANCE * scale:
        raise wrong(f"differs from the network's by {error:.3g}, where the largest value is {scale:.3g}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
