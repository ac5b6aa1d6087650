"""An affine after a normalisation of the input goes into the weight and bias that it has of its own.

    s * (w * n + b) + t  =  (s w) * n + (s b + t)
        group, instance and layer normalisation
    s * (w * n) + t      =  (s w) * n + t
        root mean square: it has no bias, so the shift stays

n is the normalised input, which w and b have no part in. w and b are per channel (axis 1) of a group or an
instance normalisation; they have the shape of the normalised axes, the last ones, for the others. One without
w and b has ones and zeros.

Refuses: channels on an axis that the weight does not tell apart, even where the sizes are equal.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bnfold.affine import Array
from bnfold.fold.rules._base import (
    DATA_DEPENDENT,
    Answer,
    Case,
    Move,
    Operator,
    Pending,
    Refusal,
    Rule,
    left_behind,
)

aten = torch.ops.aten


class NormalisationBackward(Rule):
    name = "normalisation-backward"
    algebra = "s(wn + b) + t = (sw)n + (sb + t) for a normalised n"
    direction = "backward"
    operators = frozenset(
        {
            aten.group_norm.default,
            aten.instance_norm.default,
            aten.layer_norm.default,
            aten.rms_norm.default,
        }
    )

    def match(self, operator: Operator, pending: Pending) -> Answer:
        arguments, sizes = operator.arguments, operator.output_shape
        axes = [1]  # of the weight
        if "normalized_shape" in arguments:
            axes = list(range(len(sizes) - len(arguments["normalized_shape"]), len(sizes)))
        shape = [sizes[axis] for axis in axes]
        own: dict[str, Array] = {}
        for name, neutral in (("weight", 1.0), ("bias", 0.0)):
            if name not in arguments:
                continue  # a root mean square has no bias
            argument, value = arguments[name], operator.constant(name)
            if (argument is not None and value is None) or None in shape:
                return DATA_DEPENDENT
            own[name] = np.full([size or 0 for size in shape], neutral) if value is None else value
        axis = pending.axis if pending.axis in axes else axes[-1]
        affine = pending.on(axis, sizes[axis])
        if affine is None or affine.map is not None:
            return Refusal(
                f"the BatchNorm normalises axis {pending.axis}, and its weight is per position of axis "
                f"{' and '.join(map(str, axes))}"
            )
        along = [-1 if candidate == axis else 1 for candidate in axes]
        scale, shift = affine.scale.reshape(along), affine.shift.reshape(along)
        new = {"weight": own["weight"] * scale}
        if "bias" in own:
            return Move({**new, "bias": own["bias"] * scale + shift})
        if not affine.has_scale:
            return Refusal("it has no bias for the shift")
        return Move(new, after=left_behind(affine.without_scale(), axis))

    def cases(self) -> list[Case]:
        class Then(nn.Module):
            """A normalisation, then a BatchNorm, on the transposed result if wished."""

            def __init__(self, first: nn.Module, norm: nn.Module, *, transposed: bool = False) -> None:
                super().__init__()
                for parameter in first.parameters():
                    nn.init.normal_(parameter)
                self.first, self.norm, self.transposed = first, norm, transposed

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.first(x)
                z: torch.Tensor = self.norm(y.transpose(1, 2) if self.transposed else y)
                return torch.tanh(z)

        def over(
            first: Callable[[], nn.Module], channels: int, rank: int, *, transposed: bool = False
        ) -> Callable[[], nn.Module]:
            norm = nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d
            return lambda: Then(first(), norm(channels), transposed=transposed)

        return [
            Case("group", over(lambda: nn.GroupNorm(2, 6), 6, 4), (2, 6, 3, 5), ("folded",)),
            Case("group, sizes equal", over(lambda: nn.GroupNorm(2, 4), 4, 4), (4, 4, 4, 4), ("folded",)),
            Case(
                "group, no weight",
                over(lambda: nn.GroupNorm(3, 6, affine=False), 6, 4),
                (2, 6, 3, 5),
                ("folded",),
            ),
            Case(
                "instance",
                over(lambda: nn.InstanceNorm2d(3, affine=True), 3, 4),
                (2, 3, 4, 5),
                ("folded",),
            ),
            Case("instance, no weight", over(lambda: nn.InstanceNorm2d(3), 3, 4), (2, 3, 4, 5), ("folded",)),
            Case("layer", over(lambda: nn.LayerNorm(5), 5, 2), (3, 5), ("folded",)),
            Case("layer, no bias", over(lambda: nn.LayerNorm(4, bias=False), 4, 2), (4, 4), ("folded",)),
            Case(
                "layer, over the features",
                over(lambda: nn.LayerNorm(4), 4, 3, transposed=True),
                (4, 4, 4),
                ("folded",),
            ),
            Case("layer, over the length", over(lambda: nn.LayerNorm(5), 6, 3), (2, 6, 5), ("kept",)),
            Case(
                "layer, over the length, sizes equal",
                over(lambda: nn.LayerNorm(4), 4, 3),
                (4, 4, 4),
                ("kept",),
            ),
            Case(
                "layer, over all axes",
                over(lambda: nn.LayerNorm((3, 4, 5)), 3, 4),
                (2, 3, 4, 5),
                ("folded",),
            ),
            Case(
                "layer, over all axes, sizes equal",
                over(lambda: nn.LayerNorm((4, 4, 4), elementwise_affine=False), 4, 4),
                (4, 4, 4, 4),
                ("folded",),
            ),
            Case(
                "layer, over all but the channels",
                over(lambda: nn.LayerNorm((4, 4)), 4, 4),
                (4, 4, 4, 4),
                ("kept",),
            ),
            Case("root mean square", over(lambda: nn.RMSNorm(5), 5, 2), (3, 5), ("reduced",)),
        ]
