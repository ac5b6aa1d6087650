"""Splitting into one part, which the TFLite converter takes for a list: the part is the whole."""

from __future__ import annotations

import torch

from bnfold.export.rewrite import Call, Replacement, Rewrite

aten = torch.ops.aten


def split(call: Call) -> Replacement | None:
    return Replacement(lambda x: x) if len(call.result) == 1 else None


REWRITES = (
    Rewrite(
        "split",
        (aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default),
        split,
    ),
)
