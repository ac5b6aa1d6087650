"""Channels last at the border of a graph: the network itself stays as it is."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from bnfold.signature import TensorSpec


def take_channels_last(
    module: fx.GraphModule,
    inputs: tuple[TensorSpec, ...],
    example: tuple[torch.Tensor, ...],
    moved: Collection[str],
) -> tuple[torch.Tensor, ...]:
    """Put a permutation behind some of the placeholders; the graph then takes those inputs channels last.

    The converter makes its convolutions channels last and cancels that permutation against its own.

    Args:
        module: a private copy, which is changed.
        inputs: of the graph, in order, channels first.
        example: one tensor per input.
        moved: names of the inputs to take channels last.

    Returns:
        The example in the new order.
    """
    graph = module.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    after = next(node for node in graph.nodes if node.op != "placeholder")
    tensors = list(example)
    for index, (node, spec) in enumerate(zip(placeholders, inputs, strict=True)):
        if spec.name not in moved:
            continue
        rank = len(spec.shape)
        with graph.inserting_before(after):
            back = graph.call_function(
                torch.ops.aten.permute.default, (node, [0, rank - 1, *range(1, rank - 1)])
            )
        back.meta = dict(node.meta)
        node.meta = {}
        node.replace_all_uses_with(back, delete_user_cb=lambda user, back=back: user is not back)
        tensors[index] = torch.movedim(example[index], 1, -1).contiguous()
    graph.lint()
    module.recompile()
    return tuple(tensors)
