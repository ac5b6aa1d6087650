"""Where a candidate leaves the network: the first layer whose value, and all that follows, is lost.

A folded graph has other values inside than the network (a convolution that took up its BatchNorm gives the
BatchNorm's output), and an exported one has other names, shapes and layouts. So values are not matched by
name: a value of the network counts as kept if *any* value of the candidate has the same elements in any
order, within the rounding measured at that node. A layer whose value is nowhere, nor that of anything
downstream of it, is where the candidate went wrong.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from bnfold import graph as g
from bnfold.capture import Captured
from bnfold.capture.failures import user_line
from bnfold.verify import parity
from bnfold.verify.candidates import to_tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class Divergence:
    """The first layer that is lost.

    Attributes:
        layer: the module's qualified name, or ``<calling module>.<operator>``.
        operator: ``conv2d``.
        line: the user's own line, where torch recorded it; may be empty.
        distance: of the candidate's nearest value from the layer's.
        tolerance: what rounding explains at this layer.
    """

    layer: str
    operator: str
    line: str
    distance: float
    tolerance: float

    def describe(self) -> str:
        """``conv2 (conv2d; model.py:12 ...)``."""
        line = f"; {self.line}" if self.line else ""
        return f"{self.layer} ({self.operator}{line})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "layer": self.layer,
            "operator": self.operator,
            "line": self.line,
            "distance": parity.finite_or_none(self.distance),
            "tolerance": parity.finite_or_none(self.tolerance),
        }


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every floating value by node name."""

    def __init__(self, body: fx.GraphModule) -> None:
        super().__init__(body)
        self.values: dict[str, Array] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if node.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point():
            self.values[node.name] = value.detach().numpy().copy()
        return value


def graph_values(
    body: fx.GraphModule, inputs: Mapping[str, Array], *, double: bool = False
) -> dict[str, Array]:
    """Every floating value of a graph, by node name, in execution order.

    Args:
        body: placeholders in the order of ``inputs``.
        inputs: in the order of the graph's inputs.
        double: give floating inputs in float64.
    """
    recorder = _Recorder(body)
    tensors = [
        to_tensor(array, torch.float64 if double and array.dtype.kind == "f" else None)
        for array in inputs.values()
    ]
    with torch.no_grad():
        recorder.run(*tensors)
    return recorder.values


def first_divergence(
    captured: Captured, candidate: fx.GraphModule | Iterable[Array], inputs: Mapping[str, Array]
) -> Divergence | None:
    """The first layer of the network that a candidate loses.

    Args:
        captured: the network.
        candidate: the candidate's graph (flat tensors in, as ``captured.body``), or every value that it
            computes on these inputs, in any order and layout.
        inputs: one call's inputs by name, best where the candidate is furthest off.

    Returns:
        None where no layer is lost: the candidate has all values, so it orders or names them wrongly.
    """
    ordered = {spec.name: inputs[spec.name] for spec in captured.inputs}
    exact = graph_values(captured.twin(), ordered, double=True)
    rounded = graph_values(captured.body, ordered)
    if isinstance(candidate, fx.GraphModule):
        candidate = graph_values(candidate, ordered).values()
    by_size: dict[int, list[Array]] = defaultdict(list)
    for value in candidate:
        by_size[value.size].append(np.sort(np.asarray(value, dtype=np.float64).ravel()))
    nodes = [node for node in captured.body.graph.nodes if node.name in exact]
    distances: dict[fx.Node, tuple[float, float]] = {}
    for node in nodes:
        value = exact[node.name]
        noise = parity.error(rounded[node.name], value, exact=False)
        allowed = parity.tolerance(noise, float(np.max(np.abs(value), initial=0.0)))
        distances[node] = (_nearest(np.sort(value.ravel()), by_size[value.size]), allowed)
    kept: set[fx.Node] = set()
    for node in reversed(captured.body.graph.nodes):
        found = node in distances and distances[node][0] <= distances[node][1]
        if found or any(user in kept for user in node.users):
            kept.add(node)
    lost = next((node for node in nodes if node not in kept), None)
    if lost is None:
        return None
    distance, allowed = distances[lost]
    return Divergence(
        g.layer_name(lost),
        g.operator_name(lost),
        user_line(lost.meta.get("stack_trace") or ""),
        distance,
        allowed,
    )


def _nearest(wanted: Array, values: list[Array]) -> float:
    """The distance of the nearest of some sorted values; sorting brings no two values further apart."""
    if not np.isfinite(wanted).all():
        return math.inf
    distances = [float(np.max(np.abs(value - wanted), initial=0.0)) for value in values]
    return min((distance for distance in distances if math.isfinite(distance)), default=math.inf)
