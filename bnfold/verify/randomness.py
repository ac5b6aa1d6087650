"""Does the network draw random numbers in eval mode? Then no two answers agree and nothing can be proven.

torch tags its operators that draw (:func:`bnfold.graph.draws`). What carries no tag, such as a user's own
operator, shows itself when the same inputs are run twice.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from bnfold import graph as g
from bnfold import numerics
from bnfold.capture import Captured
from bnfold.capture.failures import user_line
from bnfold.finding import Finding
from bnfold.verify import parity
from bnfold.verify.parity import Array

_ULPS = 64.0
"""Two runs on one thread give the same bits; this is room for a library that sums in another order."""


def drawing(captured: Captured) -> dict[str, fx.Node]:
    """By output name, the first operator upstream that draws random numbers."""
    source: dict[fx.Node, fx.Node] = {}
    for node in captured.body.graph.nodes:
        upstream = [source[argument] for argument in node.all_input_nodes if argument in source]
        if upstream:
            source[node] = upstream[0]
        elif g.draws(node):
            source[node] = node
    results = captured.body.graph.output_node().args[0]
    assert isinstance(results, tuple)
    return {
        spec.name: source[node]
        for spec, node in zip(captured.outputs, results, strict=True)
        if isinstance(node, fx.Node) and node in source
    }


def differing(first: Mapping[str, Array], second: Mapping[str, Array]) -> dict[str, float]:
    """By output name, how far two runs on the same inputs are apart, where rounding does not explain it."""
    apart = {}
    for name, values in first.items():
        exact = values.dtype.kind in "biu"
        largest = numerics.max_abs(abs(values)) if not exact else 0.0
        distance = parity.error(second[name], values, exact=exact)
        allowed = 0.0 if exact else numerics.float32_ulps(largest, _ULPS)
        if largest < float("inf") and distance > allowed:
            apart[name] = distance
    return apart


def findings(captured: Captured) -> list[Finding]:
    """An error for each output that a random number reaches."""
    return [
        _finding(
            name,
            g.layer_name(node),
            f"{g.operator_name(node)} draws random numbers",
            user_line(node.meta.get("stack_trace") or ""),
            {"operator": g.operator_name(node)},
        )
        for name, node in drawing(captured).items()
    ]


def seen(apart: Mapping[str, float]) -> list[Finding]:
    """The same for outputs that differed between two runs (see :func:`differing`)."""
    return [
        _finding(
            name,
            name,
            f"two runs on the same inputs are {distance:.3g} apart",
            "",
            {"distance": parity.finite_or_none(distance)},
        )
        for name, distance in apart.items()
    ]


def _finding(output: str, where: str, why: str, line: str, evidence: dict[str, object]) -> Finding:
    return Finding(
        "BNF-V006",
        "error",
        where,
        f"output {output!r} is random in eval mode: {why}" + (f" ({line})" if line else ""),
        {"output": output, **evidence},
        "draw only where self.training is true, or make the random numbers an input",
    )
