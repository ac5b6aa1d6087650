"""Two affines in a row are one.

    s2 * (s1 * x + t1) + t2  =  (s2 s1) * x + (s2 t1 + t2)

Refuses: affines over different axes.
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.fold.pending import compose, pending_affine
from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


class Compose(Rule):
    name = "compose"
    algebra = "s2(s1 x + t1) + t2 = (s2 s1)x + (s2 t1 + t2)"
    direction = "forward"
    operators = frozenset({pending_affine})

    def match(self, operator: Operator, pending: Pending) -> Answer:
        both = compose(pending, operator.pending[operator.node])
        return Move(after=both) if both else Refusal("the two affines run over different axes")

    def cases(self) -> list[Case]:
        class Transposed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.b(self.a(x).transpose(1, 2))
                return y

        return [
            Case(
                "two",
                lambda: nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)),
                (2, 3, 4, 5),
                ("reduced", "reduced"),  # what is left belongs to both
            ),
            Case(
                "three, then a linear layer",
                lambda: nn.Sequential(
                    nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.Linear(3, 4)
                ),
                (2, 3),
                ("folded", "folded", "folded"),
            ),
            Case("over different axes", Transposed, (4, 4, 4), ("kept", "kept")),
        ]
