"""What the convolution rules share: the operators, their layout and their padding."""

from __future__ import annotations

import torch

from bnfold.affine import Array
from bnfold.fold.rules._base import Operator

aten = torch.ops.aten

PLAIN = frozenset(
    {
        aten.conv1d.default,
        aten.conv2d.default,
        aten.conv3d.default,
        aten.conv1d.padding,
        aten.conv2d.padding,
        aten.conv3d.padding,
    }
)
TRANSPOSED = frozenset(
    {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
)


def is_batched(operator: Operator, weight: Array) -> bool:
    """Whether the input has a batch axis (torch also takes a single unbatched frame)."""
    return len(operator.input_shape) == weight.ndim


def is_padded(operator: Operator) -> bool:
    """Whether the convolution reads zeros beyond its input."""
    padding = operator.arguments["padding"]
    if isinstance(padding, str):
        return padding == "same" and any(
            size != 1 for size in operator.arguments["weight"].meta["val"].shape[2:]
        )
    return any(size != 0 for size in padding)


def scale_first_axis(weight: Array, scale: Array) -> Array:
    """One row per channel, whatever the groups: outputs, or, transposed, inputs."""
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


def scale_second_axis(weight: Array, scale: Array, groups: int) -> Array:
    """Scale the second axis group by group: group i of the rows pairs with group i of ``scale``.

    (out, in / groups, *kernel) with one scale per input channel, or, transposed, (in, out / groups, *kernel)
    with one scale per output channel.
    """
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    factors = scale.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return (grouped * factors).reshape(weight.shape)
