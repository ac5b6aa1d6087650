"""Two affines of one value that meet in a sum become one affine of it.

    (s1 * x + t1) + (s2 * x + t2)  =  (s1 + s2) * x + (t1 + t2)
    x + (s * x + t)                =  (1 + s) * x + t

A sum of what a layer answers and its BatchNorm, or of two BatchNorms of it. What is left reads x once, so
it can go into the layer. Differences and ``torch.add`` with a factor ``alpha`` alike; x + x is left as it is.

Refuses: an affine that others read too; affines over different axes; terms of which so little is left that
its digits are those of their rounding; one affine that is as much work as the two and their sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import fx, nn

from bnfold import graph as g
from bnfold.affine import Affine
from bnfold.fold import cost
from bnfold.fold.pending import on_one_axis
from bnfold.fold.rules import _sum
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule

_LEAST_LEFT = 2.0**-8  # of the larger term: eight binary digits lost are far from what the certificate allows


class MergeTerms(Rule):
    name = "merge-terms"
    algebra = "(s1 x + t1) + (s2 x + t2) = (s1 + s2)x + (t1 + t2)"
    direction = "merge"
    operators = _sum.OPERATORS

    def match(self, operator: Operator, pending: Pending) -> Answer:
        a, b = operator.node.args[:2]
        factor = operator.arguments["alpha"]
        if not isinstance(a, fx.Node) or not isinstance(b, fx.Node) or a is b:
            return Refusal("it is not the sum of two values")
        if not isinstance(factor, int | float) or not math.isfinite(factor):
            return Refusal("one of its terms is multiplied by what is no number")
        factor = factor if operator.node.target is torch.ops.aten.add.Tensor else -factor
        for source, first in _readings(operator, a):
            for same, second in _readings(operator, b):
                if source is same and (first is not None or second is not None):
                    return self._merged(operator, source, first, second, float(factor))
        return Refusal("its terms are not affines of one value that only it reads")

    def _merged(
        self,
        operator: Operator,
        source: fx.Node,
        first: Pending | None,
        second: Pending | None,
        factor: float,
    ) -> Answer:
        there = second if first is None else first
        assert there is not None
        if g.value(source).dtype != g.value(operator.node).dtype:
            return Refusal("the sum is of another type")
        alone = Pending(Affine.identity(there.affine.channels), there.axis)
        found = on_one_axis(first or alone, second or alone)
        if found is None:
            return Refusal("the two affines run over different axes")
        one, other, axis = found
        other = other.times(factor)
        both = one.plus(other)
        most = np.maximum(np.abs(one.scale), np.abs(other.scale)).max()
        if np.abs(both.scale).max() < _LEAST_LEFT * most:
            return Refusal("its terms cancel")
        value = g.value(source)
        now = cost.elementwise(value) + sum(
            cost.lowered(term.affine, value).bytes for term in (first, second) if term is not None
        )
        if cost.lowered(both, value).bytes >= now:
            return Refusal("one affine would be as much work as the two and their sum")
        host = operator.node.args[0] if first is not None else operator.node.args[1]
        assert isinstance(host, fx.Node)
        return Move(after=Pending(both, axis), host=host)

    def cases(self) -> list[Case]:
        class Beside(nn.Module):
            """A layer's answer and its BatchNorm, joined as ``join`` says."""

            def __init__(
                self,
                channels: int,
                join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
                *,
                after: str = "conv",
                norms: int = 1,
            ) -> None:
                super().__init__()
                self.conv, self.linear = nn.Conv2d(channels, channels, 3), nn.Linear(channels, channels)
                self.norm = nn.BatchNorm1d(channels) if after == "linear" else nn.BatchNorm2d(channels)
                self.second = nn.BatchNorm2d(channels) if norms == 2 else nn.Identity()
                self.join, self.after = join, after

            def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
                kinds: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
                    "conv": self.conv,
                    "linear": self.linear,
                }
                y = kinds.get(self.after, torch.sigmoid)(x)
                normalised = self.norm(y)
                z = torch.tanh(self.join(self.second(y), normalised))
                if self.after == "conv, its answer returned":
                    return z, y
                return (z, normalised) if self.after == "conv, the BatchNorm returned" else z

        def plus(y: torch.Tensor, normalised: torch.Tensor) -> torch.Tensor:
            return y + normalised

        def weighed(y: torch.Tensor, normalised: torch.Tensor) -> torch.Tensor:
            return torch.sub(normalised, y, alpha=3)

        return [
            Case("a conv and its BatchNorm", lambda: Beside(3, plus), (2, 3, 5, 6), ("folded",)),
            Case("sizes equal", lambda: Beside(4, plus), (4, 4, 4, 4), ("folded",)),
            Case("a difference", lambda: Beside(3, lambda y, n: y - n), (2, 3, 5, 6), ("folded",)),
            Case("with a factor", lambda: Beside(3, weighed), (3, 3, 3, 3), ("folded",)),
            Case("a linear layer", lambda: Beside(4, plus, after="linear"), (4, 4), ("folded",)),
            Case("two BatchNorms", lambda: Beside(3, plus, norms=2), (2, 3, 5, 6), ("folded", "folded")),
            Case("nothing takes it", lambda: Beside(3, plus, after="sigmoid"), (2, 3, 5, 6), ("reduced",)),
            Case(
                "the answer is returned",
                lambda: Beside(3, plus, after="conv, its answer returned"),
                (2, 3, 5, 6),
                ("reduced",),
            ),
            Case(
                "the BatchNorm is returned",
                lambda: Beside(3, plus, after="conv, the BatchNorm returned"),
                (2, 3, 5, 6),
                ("kept",),
            ),
        ]


def _readings(operator: Operator, term: fx.Node) -> Iterator[tuple[fx.Node, Pending | None]]:
    """A term as itself, and as the affine that it is of another value, where only the sum reads it."""
    yield term, None
    if term in operator.pending and len(term.users) == 1:
        yield g.data_input(term), operator.pending[term]
