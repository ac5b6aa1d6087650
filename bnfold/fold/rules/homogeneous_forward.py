"""A positive scale before an operator that is positively homogeneous moves behind it.

    f(s * x)  =  s * f(x), s > 0
        f: relu, leaky relu, prelu; abs for any s: |s x| = |s| |x|
    max(s * x + t)  =  s * max(x) + t, s > 0
        max pooling: its shift moves too

    f(0 * x + t)  =  0 * f(x) + f(t)
        a dead channel's shift becomes another constant

So relu(s x + t) = s * relu(x + t / s): one addition is left before the relu, and no shift behind it that
could meet the border of a zero-padded convolution. leaky relu and prelu take a negative scale by turning
their slope round: f_a(s x) = a s * f_{1/a}(x) for s < 0 < a.

Refuses: a shift of a channel that is not dead (but for max pooling); a scale that is not positive (but
for abs, and slopes that turn round).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bnfold.affine import Affine
from bnfold.fold.rules import _axes, _homogeneous, _monotone
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule

aten = torch.ops.aten


class HomogeneousForward(Rule):
    name = "homogeneous-forward"
    algebra = "f(sx) = s f(x) for s > 0: relu, leaky relu, prelu, abs; max(sx + t) = s max(x) + t"
    direction = "forward"
    operators = _homogeneous.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, target = pending.affine, operator.node.target
        axis = _axes.output_axis(operator, pending.axis)
        if axis is None:
            return Refusal("it takes the maximum over the BatchNorm's channels")
        alive = affine.scale != 0
        passes_shift = _homogeneous.passes_shift(operator) or not affine.shift[alive].any()
        if affine.map is not None or not passes_shift:
            return Refusal("a shift cannot pass")
        shift = _homogeneous.of_constants(operator, pending)
        if shift is None:
            return Refusal("what it makes of a dead channel's constant is not known")
        if target is aten.abs.default:
            return Move(after=Pending(Affine(np.abs(affine.scale), shift), axis))
        if (affine.scale >= 0).all():
            return Move(after=Pending(Affine(affine.scale, shift), axis))
        if target in _monotone.LEAKY:
            return self._turned(operator, Pending(Affine(affine.scale, shift), pending.axis))
        return Refusal("a scale that is not positive cannot pass")

    def _turned(self, operator: Operator, pending: Pending) -> Answer:
        """f_a(s x) = a s f_{1/a}(x) where s < 0."""
        scale = pending.affine.scale
        slope = _monotone.slopes(operator, len(scale))
        if slope is None:
            return Refusal("its slope is computed from the input")
        negative = scale < 0
        if pending.axis != 1 or not (slope[negative] > 0).all():
            return Refusal("a slope that is not positive cannot be turned round for a negative scale")
        after = Affine(np.where(negative, slope * scale, scale), pending.affine.shift)
        turned = _monotone.turned(slope, negative)
        return Move({"weight": turned}, after=Pending(after, 1), becomes=aten.prelu.default)

    def cases(self) -> list[Case]:
        class Abs(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.abs()

        class Dead(nn.BatchNorm2d):
            """gamma is the running mean, with a zero; beta is negative there."""

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                assert self.running_mean is not None
                gamma = self.running_mean.abs() * torch.tensor([1.0, 1.0, 0.0, 1.0])
                return nn.functional.batch_norm(x, self.running_mean, self.running_var, gamma, -gamma - 1)

        class Maximum(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.amax((2, 3))

        def norm() -> nn.Module:
            return nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(4, affine=False))  # every scale is positive

        def before(f: nn.Module) -> nn.Module:
            return nn.Sequential(norm(), f, nn.Conv2d(4, 3, 3, padding=1))

        def signed(f: nn.Module) -> nn.Module:
            return nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(4), f, nn.Conv2d(4, 3, 1))

        return [
            Case("relu, then zero padding", lambda: before(nn.ReLU()), (2, 4, 5, 6), ("reduced",)),
            Case("leaky relu", lambda: before(nn.LeakyReLU(0.1)), (4, 4, 5, 5), ("reduced",)),
            Case("max pool", lambda: before(nn.MaxPool2d(2)), (2, 4, 6, 7), ("reduced",)),
            Case("leaky relu, both signs", lambda: signed(nn.LeakyReLU(0.1)), (4, 4, 5, 5), ("reduced",)),
            Case("prelu, both signs", lambda: signed(nn.PReLU(4)), (2, 4, 5, 6), ("reduced",)),
            Case(
                "leaky relu, a dead channel among positive ones",
                lambda: nn.Sequential(nn.Sigmoid(), Dead(4), nn.LeakyReLU(0.1), nn.Conv2d(4, 3, 1)),
                (4, 4, 5, 5),
                ("reduced",),
            ),
            Case("abs, both signs", lambda: signed(Abs()), (2, 4, 5, 6), ("reduced",)),
            Case(
                "adaptive max pool to one position",
                lambda: nn.Sequential(norm(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
                (4, 4, 4, 4),
                ("folded",),
            ),
            Case(
                "global maximum",
                lambda: nn.Sequential(norm(), Maximum(), nn.Linear(4, 3)),
                (4, 4, 4, 4),
                ("folded",),
            ),
            Case("max pool, both signs", lambda: signed(nn.MaxPool2d(2)), (4, 4, 4, 4), ("reduced",)),
        ]
