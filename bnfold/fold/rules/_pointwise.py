"""Functions of one element each, and parameters per channel at most."""

from __future__ import annotations

import torch

from bnfold.fold.rules import _monotone

aten = torch.ops.aten

ACTIVATIONS = frozenset(
    {
        aten.leaky_relu.default, aten.prelu.default, aten.elu.default, aten.selu.default, aten.celu.default,
        aten.gelu.default, aten.silu.default, aten.mish.default, aten.hardswish.default,
        aten.hardsigmoid.default, aten.sigmoid.default, aten.tanh.default, aten.softplus.default,
        aten.log_sigmoid.default, aten.hardshrink.default, aten.softshrink.default,
    }
)  # fmt: skip
FUNCTIONS = frozenset(
    {
        aten.abs.default, aten.neg.default, aten.exp.default, aten.sqrt.default, aten.rsqrt.default,
        aten.square.default, aten.pow.Tensor_Scalar, aten.erf.default, aten.sin.default, aten.cos.default,
        aten.reciprocal.default, aten.rsub.Scalar,
    }
)  # fmt: skip
OPERATORS = ACTIVATIONS | FUNCTIONS | _monotone.CLAMPS
