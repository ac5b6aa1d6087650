"""The sign of a scale moves before a function with a symmetry, and a dead channel before any function.

    s f(x) + t  =  |s| f(sgn(s) x) + t
        f odd: tanh, erf, sine
    s f(x) + t  =  |s| f(-x) + (t + s), s < 0
        f(-x) = 1 - f(x): sigmoid, hardsigmoid
    0 f(x) + t  =  r f(0 x) + (t - r f(0))
        any f, any r

-1 and 0 cost nothing in the weights of the layer before: its row is turned round, or is zero. What is left
has positive scales, so it can pass a maximum, or be divided by in a sum or a
concatenation. r is the smallest of the other scales: r f(0) comes and goes, and r is what it rounds with.

Refuses: scales that are positive already; a negative one where f has no symmetry and no channel is dead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.fx.node import map_arg

from bnfold.affine import Affine, Array
from bnfold.fold.rules import _pointwise
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule

aten = torch.ops.aten

Mask = NDArray[np.bool_]

_ODD = frozenset({aten.tanh.default, aten.erf.default, aten.sin.default})
_TO_ONE = frozenset({aten.sigmoid.default, aten.hardsigmoid.default})


class SignBackward(Rule):
    name = "sign-backward"
    algebra = "s f(x) + t = |s| f(sgn(s) x) + t for tanh; sigmoid(-x) = 1 - sigmoid(x); 0 f(x) = f(0x) - f(0)"
    direction = "backward"
    rounds_more = True
    operators = _pointwise.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        affine, target = pending.affine, operator.node.target
        if affine.map is not None or (affine.scale > 0).all():
            return Refusal("a scale that is positive, or a shift, cannot pass")
        dead = affine.scale == 0
        negative = (affine.scale < 0) & (target in _ODD | _TO_ONE)
        at_zero = self._at_zero(operator, pending) if dead.any() else np.zeros(1)
        if at_zero is None:
            return Refusal("its parameters are not one constant per channel")
        # the zeros alone first: turning a sigmoid round may round more, where it is near 0
        masks = [negative & False, negative] if negative.any() and dead.any() else [negative]
        moves = [self._move(operator, pending, dead, at_zero, mask) for mask in masks if (dead | mask).any()]
        return tuple(moves) or Refusal("the function has no symmetry that a sign could use")

    @staticmethod
    def _move(operator: Operator, pending: Pending, dead: Mask, at_zero: Array, turned: Mask) -> Move:
        affine, to_one = pending.affine, operator.node.target in _TO_ONE
        others = np.abs(affine.scale[~dead])
        size = np.where(turned, -affine.scale, affine.scale)
        size = np.where(dead, others.min() if len(others) else 1.0, size)
        shift = affine.shift + np.where(turned & to_one, affine.scale, 0.0)
        shift = np.where(dead, affine.shift - size * at_zero, shift)
        before = Affine(np.where(dead, 0.0, np.where(turned, -1.0, 1.0)), np.zeros_like(size))
        return Move(
            before={operator.data: Pending(before, pending.axis)},
            after=Pending(Affine(size, shift), pending.axis),
        )

    @staticmethod
    def _at_zero(operator: Operator, pending: Pending) -> Array | None:
        """f(0), per channel where f has parameters per channel; None where it has other ones."""
        rank, channels = len(operator.output_shape), pending.affine.channels

        def look_up(node: fx.Node) -> Any:
            if node is operator.data:
                return torch.zeros([channels if k == pending.axis else 1 for k in range(rank)]).double()
            value = operator.value(node)
            return None if value is None else torch.from_numpy(value)

        args, kwargs = map_arg((operator.node.args, operator.node.kwargs), look_up)
        if any(arg is None for arg in args[: len(operator.node.all_input_nodes)]):
            return None
        target: Any = operator.node.target
        result: torch.Tensor = target(*args, **kwargs)
        along = tuple(size for k, size in enumerate(result.shape) if k != pending.axis)
        at_zero = result.reshape(-1).numpy()
        return at_zero if set(along) <= {1} and np.isfinite(at_zero).all() else None

    def cases(self) -> list[Case]:
        class DeadNorm(nn.BatchNorm2d):
            """Its second channel is dead, whatever gamma is."""

            def __init__(self, channels: int) -> None:
                super().__init__(channels)
                self.alive = nn.Parameter((torch.arange(channels) != 1).float())

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                mean, variance = self.running_mean, self.running_var
                return nn.functional.batch_norm(x, mean, variance, self.weight * self.alive, self.bias)

        class Dead(nn.Module):
            """Dead channels in a sum, or in both parts of a concatenation that two layers read."""

            def __init__(self, channels: int, how: str) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, channels, 3, padding=1), DeadNorm(channels)
                self.side, self.other = nn.Conv2d(3, channels, 1), DeadNorm(channels)
                self.how, self.head = how, nn.Conv2d(channels if how == "add" else 2 * channels, 4, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.norm(nn.functional.silu(self.conv(x)))
                z = self.side(x) if self.how == "add" else self.other(torch.sigmoid(self.side(x)))
                joined = y + z if self.how == "add" else torch.cat([z, y], 1)
                w: torch.Tensor = self.head(joined)
                return w if self.how == "add" else w + torch.sigmoid(joined).mean(1, keepdim=True)

        def pooled(function: nn.Module, channels: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(3, channels, 3),
                function,
                nn.BatchNorm2d(channels),
                nn.MaxPool2d(2),
                nn.Conv2d(channels, 3, 1),
            )

        return [
            Case("tanh, then max pooling", lambda: pooled(nn.Tanh(), 4), (2, 3, 8, 9), ("folded",)),
            Case("sigmoid, sizes equal", lambda: pooled(nn.Sigmoid(), 3), (3, 3, 6, 6), ("folded",)),
            Case("hardsigmoid", lambda: pooled(nn.Hardsigmoid(), 4), (2, 3, 8, 9), ("folded",)),
            Case("silu has no symmetry", lambda: pooled(nn.SiLU(), 4), (2, 3, 8, 9), ("reduced",)),
            Case("dead in a sum", lambda: Dead(4, "add"), (2, 3, 8, 9), ("folded",)),
            Case("dead in a concatenation", lambda: Dead(3, "cat"), (3, 3, 3, 3), ("reduced", "reduced")),
        ]
