"""Powers of tensors with more axes than the TFLite operator has, on one axis."""

from __future__ import annotations

import torch

from bnfold.export.rewrite import Call, Replacement, Rewrite

aten = torch.ops.aten
Tensor = torch.Tensor

_MOST_AXES = 4


def power(call: Call) -> Replacement | None:
    """x ** y, value by value: the order of the axes does not matter, only that both have the same."""
    shape = call.result.shape
    if len(shape) <= _MOST_AXES:
        return None
    base, exponent = call["self"], call.arguments.get("exponent", 2)

    def function(*tensors: Tensor) -> Tensor:
        flat = iter([tensor.expand(shape).reshape(-1) for tensor in tensors])
        x, y = (next(flat) if isinstance(side, Tensor) else side for side in (base, exponent))
        return torch.pow(x, y).reshape(shape)

    return Replacement(function)


REWRITES = (
    Rewrite(
        "power",
        (aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar, aten.square.default),
        power,
    ),
)
