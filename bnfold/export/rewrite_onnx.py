"""What the ONNX exporter lacks or writes as something else, or leaves out, as a small epsilon."""

from __future__ import annotations

import torch

from bnfold.export import rewrite_pool
from bnfold.export.rewrite import Call, Refusal, Replacement, Rewrite, constant
from bnfold.export.source import operator_name

aten = torch.ops.aten


def _own_divisor(call: Call) -> Replacement | Refusal | None:
    return None if call["divisor_override"] is None else rewrite_pool.avg_pool(call)


def _uneven_max(call: Call) -> Replacement | Refusal | None:
    out, size = call.result[0].shape, call["self"].shape
    even = all(n % o == 0 for n, o in zip(size, out, strict=True))
    return None if even else rewrite_pool.adaptive_pool(call)


def _projected_lstm(call: Call) -> Refusal | None:
    """An LSTM has four tensors a layer and direction, two without bias, and one more to project its state."""
    runs = call["num_layers"] * (2 if call["bidirectional"] else 1)
    projected = len(call["params"]) > runs * (4 if call["has_biases"] else 2)
    return Refusal("an ONNX LSTM has no projection (proj_size)") if projected else None


def _near_nothing(call: Call) -> Replacement | None:
    """A scalar that onnxscript's optimiser drops, as in x + 1e-8: it takes it for 0 or 1, within a tolerance.

    It looks for scalars alone, so the constant gets an axis.
    """
    other, itself = _number(call, 1), _number(call, 0)
    alpha = call.arguments.get("alpha", 1)
    value = itself if other is None else other * alpha
    if value is None or not call.result.dtype.is_floating_point:
        return None
    if not (0 < abs(value) <= 1e-7 or 0 < abs(value - 1) <= 1e-4):  # ten times its tolerances
        return None
    operator = getattr(aten, operator_name(call.node.target).split(".")[-1]).Tensor
    scale = {"alpha": alpha} if other is None and alpha != 1 else {}

    def function(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        first, second = (rest[-1], rest[0]) if other is None else (x, rest[-1])
        result: torch.Tensor = operator(first, second, **scale)
        return result.reshape(call.result.shape)

    return Replacement(function, (torch.full((1,), value, dtype=call.result.dtype),))


def _number(call: Call, position: int) -> float | None:
    """An operand that is one number: said in the graph, or a constant without axes."""
    operand = call.node.args[position]
    if isinstance(operand, int | float):
        return float(operand)
    known = constant(call, position)
    return None if known is None or known.dim() else float(known)


REWRITES = (
    Rewrite(
        "near_nothing",
        tuple(
            form
            for operator in (aten.add, aten.sub, aten.mul, aten.div)
            for form in (operator.Tensor, operator.Scalar)
        ),
        _near_nothing,
    ),
    Rewrite("projected_lstm", (aten.lstm.input,), _projected_lstm),
    Rewrite("avg_pool", (aten.avg_pool2d.default, aten.avg_pool3d.default), _own_divisor),
    Rewrite(
        "adaptive_pool",
        (
            aten.adaptive_max_pool1d.default,
            aten.adaptive_max_pool2d.default,
            aten.adaptive_max_pool3d.default,
        ),
        _uneven_max,
    ),
    Rewrite(
        "adaptive_pool",
        (aten.adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d.default),
        rewrite_pool.adaptive_pool,
    ),
)
