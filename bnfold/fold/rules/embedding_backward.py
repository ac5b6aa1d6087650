"""An affine after a table that is looked up goes into the table.

    s * E[i] + t  =  (s E + t)[i]

E has shape (entries, features); the features are the last axis of the result. One position of the result is
one entry of the table, so the shift goes into every entry, a padding entry too.

Refuses: channels on any other axis, as for a BatchNorm over (batch, length, features), even where the sizes
are equal.
"""

from __future__ import annotations

import torch
from torch import nn

from bnfold.fold.rules._base import DATA_DEPENDENT, Answer, Case, Move, Operator, Pending, Refusal, Rule


class EmbeddingBackward(Rule):
    name = "embedding-backward"
    algebra = "s E[i] + t = (sE + t)[i]"
    direction = "backward"
    operators = frozenset({torch.ops.aten.embedding.default})

    def match(self, operator: Operator, pending: Pending) -> Answer:
        table = operator.constant("weight")
        if table is None:
            return DATA_DEPENDENT
        last = len(operator.output_shape) - 1
        affine = pending.on(last, table.shape[1])
        if affine is None or affine.map is not None:
            return Refusal(
                f"the BatchNorm normalises axis {pending.axis}, the features of the table are axis {last}"
            )
        return Move({"weight": table * affine.scale + affine.shift})

    def cases(self) -> list[Case]:
        class LookedUp(nn.Module):
            """Which of a table's entries depends on the input; ``raw`` also reads them as they are."""

            def __init__(self, features: int, norm: int, how: str = "features", *, raw: bool = False) -> None:
                super().__init__()
                self.table = nn.Embedding(3, features, padding_idx=1)
                self.norm, self.how, self.raw = nn.BatchNorm1d(norm), how, raw

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.table((x > 0).long() + (x > 0.5).long())
                z = {"features": y.flatten(0, -2), "tokens": y.transpose(1, -1), "length": y}[self.how]
                answer = torch.tanh(self.norm(z))
                return answer * torch.sigmoid(z) if self.raw else answer

        return [
            Case("one index for each row", lambda: LookedUp(5, 5), (7,), ("folded",)),
            Case("rows of indices", lambda: LookedUp(5, 5), (2, 4), ("folded",)),
            Case("transposed, sizes equal", lambda: LookedUp(4, 4, "tokens"), (4, 4), ("folded",)),
            Case("over the length", lambda: LookedUp(5, 4, "length"), (2, 4), ("kept",)),
            Case("over the length, sizes equal", lambda: LookedUp(4, 4, "length"), (4, 4), ("kept",)),
            Case("read as it is, too", lambda: LookedUp(5, 5, raw=True), (2, 4), ("kept",)),
        ]
