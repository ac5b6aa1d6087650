"""Outputs in memory of their own: whoever writes to one answer must not change another, or the network."""

from __future__ import annotations

import torch
from torch import fx

from bnfold.capture.aliases import Aliases

aten = torch.ops.aten


def shared_outputs(graph: fx.Graph, *, traced: bool) -> frozenset[tuple[int, str]]:
    """Which outputs may share memory, and with what.

    Args:
        graph: with a flat tuple of tensors as its output.
        traced: see :class:`Aliases`.

    Returns:
        pairs of an output's position and ``"input 0"``, ``"output 0"`` (an earlier one) or ``"state"``.
    """
    aliases = Aliases(graph, traced=traced)
    outputs = _outputs(graph)
    return frozenset(
        (i, other) for i in range(len(outputs)) for other in _partners(graph, aliases, outputs, i)
    )


def separate_outputs(graph: fx.Graph, allowed: frozenset[tuple[int, str]]) -> None:
    """Copy each output that shares memory, unless the pair is among the allowed ones."""
    aliases = Aliases(graph, traced=False)
    outputs: list[fx.Node | None] = list(_outputs(graph))
    end = graph.output_node()
    results = list(_outputs(graph))
    for i, node in enumerate(results):
        if any((i, other) not in allowed for other in _partners(graph, aliases, outputs, i)):
            with graph.inserting_before(end):
                results[i] = graph.call_function(aten.clone.default, (node,))
            results[i].meta = dict(node.meta)
            outputs[i] = None  # in memory of its own now
    end.args = (tuple(results),)


def _partners(
    graph: fx.Graph, aliases: Aliases, outputs: list[fx.Node] | list[fx.Node | None], position: int
) -> list[str]:
    node = outputs[position]
    assert node is not None
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    found = [f"input {k}" for k, n in enumerate(inputs) if aliases.overlap(node, n)]
    if any(n.op == "get_attr" and aliases.overlap(node, n) for n in graph.nodes):
        found.append("state")
    earlier = enumerate(outputs[:position])
    return found + [f"output {j}" for j, n in earlier if n is not None and aliases.overlap(node, n)]


def _outputs(graph: fx.Graph) -> list[fx.Node]:
    return list(graph.output_node().args[0])  # type: ignore[arg-type]
