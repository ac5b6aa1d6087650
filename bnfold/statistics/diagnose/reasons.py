"""Why an operator made a value that is not finite: told from its name and its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_ROOTS = {"sqrt", "rsqrt", "log", "log2", "log10", "log1p"}
_PRODUCTS = {
    "mul", "convolution", "mm", "bmm", "addmm", "baddbmm", "matmul", "linear", "native_batch_norm",
    "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "conv2d", "einsum",
}  # fmt: skip


def of_infinity(operator: str) -> str:
    """How an infinity became NaN."""
    if operator in ("add", "sub", "sum", "mean", "_softmax", "_log_softmax", "_safe_softmax"):
        return "inf - inf"
    if operator in ("div", "true_divide"):
        return "inf / inf"
    if operator in _PRODUCTS:
        return "0 * inf or inf - inf"
    return "NaN of an infinity"


def of_finite(
    function: Callable[..., Any],
    operator: str,
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    result: Tensor,
) -> str:
    """How finite inputs gave a result that is not finite."""
    arguments = _named(function, *inputs)
    tensors = [value for value in arguments.values() if _is_float(value)]
    if "batch_norm" in operator:
        reason = _of_batch_norm(arguments)
    elif operator in _ROOTS:
        reason = _of_root(operator, tensors[0])
    elif operator in ("div", "true_divide", "reciprocal"):
        reason = _of_division(operator, arguments)
    elif operator in ("pow", "float_power"):
        reason = _of_power(arguments)
    elif operator in ("asin", "acos", "atanh", "acosh"):
        reason = f"{operator} of {_worst(tensors[0]):.3g}, outside of its domain"
    else:
        reason = ""
    if reason:
        return reason
    largest = max((_worst(tensor) for tensor in tensors), default=0.0)
    most = torch.finfo(result.dtype).max
    what = "NaN" if bool(result.isnan().any()) and not bool(result.isinf().any()) else "overflow"
    kind = str(result.dtype).removeprefix("torch.")
    return f"{what}: inputs up to {largest:.3g} give more than {kind} holds ({most:.3g})"


def _of_batch_norm(arguments: dict[str, Any]) -> str:
    variance, eps = arguments.get("running_var"), float(arguments.get("eps") or 0.0)
    if not isinstance(variance, Tensor) or arguments.get("training"):
        return ""
    lowest = variance.double() + eps
    channel = int(lowest.argmin())
    value = float(lowest[channel])
    if value < 0:
        return f"square root of a negative: running_var + eps = {value:.3g} in channel {channel}"
    if value == 0:
        return f"division by zero: running_var + eps = 0 in channel {channel}"
    weight = arguments.get("weight")
    gain = lowest.rsqrt() if weight is None else weight.double().abs() * lowest.rsqrt()
    channel = int(gain.argmax())
    return (
        f"overflow: a gain of {float(gain[channel]):.3g} (running_var {float(variance[channel]):.3g}, "
        f"channel {channel}) on inputs up to {_worst(arguments['input']):.3g}"
    )


def _of_root(operator: str, values: Tensor) -> str:
    words = {"sqrt": "square root", "rsqrt": "square root"}.get(operator, "logarithm")
    lowest = float(values.min())
    limit = -1.0 if operator == "log1p" else 0.0
    if lowest < limit:
        return f"{words} of a negative: {lowest:.3g}"
    if lowest == limit and operator == "rsqrt":
        return "division by zero: 1 / sqrt(0)"
    return "logarithm of zero" if lowest == limit and operator != "sqrt" else ""


def _of_division(operator: str, arguments: dict[str, Any]) -> str:
    divisor = arguments.get("self") if operator == "reciprocal" else arguments.get("other")
    zeros = int((divisor == 0).sum()) if isinstance(divisor, Tensor) else int(divisor == 0)
    if zeros:
        dividend = arguments.get("self")
        both = operator != "reciprocal" and isinstance(dividend, Tensor) and bool((dividend == 0).any())
        return f"division by zero ({zeros} of the divisors" + (", some of them 0 / 0)" if both else ")")
    return ""


def _of_power(arguments: dict[str, Any]) -> str:
    base, exponent = arguments.get("self"), arguments.get("exponent")
    if not isinstance(base, Tensor) or not isinstance(exponent, int | float):
        return ""
    lowest = float(base.min())
    if lowest < 0 and not float(exponent).is_integer():
        return f"power {exponent:g} of a negative: {lowest:.3g}"
    return (
        f"division by zero: 0 to the power {exponent:g}" if exponent < 0 and bool((base == 0).any()) else ""
    )


def _named(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by their name in the operator's schema."""
    schema = getattr(function, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    named = dict(zip(names, args, strict=False)) if names else {str(i): value for i, value in enumerate(args)}
    flat: dict[str, Any] = {}
    for name, value in {**named, **kwargs}.items():
        if isinstance(value, list | tuple):
            flat |= {f"{name}.{i}": item for i, item in enumerate(value)}
        else:
            flat[name] = value
    return flat


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _worst(values: Tensor) -> float:
    largest = float(values.detach().abs().max()) if values.numel() else 0.0
    return largest if math.isfinite(largest) else math.inf
