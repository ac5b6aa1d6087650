"""Where in a folded graph the values that a BatchNorm normalised can still be seen.

A BatchNorm's output exists where it was folded backward: the layer before it computes just that. What it
was given exists where it was folded forward, or is left. Of branches that were merged into one convolution,
or terms into one affine, neither exists.

Which node of the folded graph is which is found by moving numbers through both graphs, not from what the
rules say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from bnfold import graph as g
from bnfold.fold import FoldResult
from bnfold.fold.certificate import unseen_inputs
from bnfold.fold.site import batch_norm_calls

# The folded weights are float32: their rounding is what may lie between the two graphs.
_CLOSE = 1e-4
_DRAWS = 2


@dataclass(frozen=True)
class Tap:
    """One place to look at.

    Attributes:
        layer: the BatchNorm call, as in the fold report.
        of: whether its ``output`` or its ``input`` is seen.
        node: the node of the folded graph that computes it.
        channels: how many.
        positions: values per frame and channel: 1 without spatial axes.
        moment: 1: its mean, 2: its second moment about the population mean.
    """

    layer: str
    of: Literal["output", "input"]
    node: str
    channels: int
    positions: int
    moment: Literal[1, 2] = 1


def find(folded: FoldResult) -> tuple[list[Tap], dict[str, str]]:
    """A tap for every BatchNorm that is still to be seen, and why not for the others."""
    calls = batch_norm_calls(folded.captured, folded.report.batch_norms)
    sites = [node for _, node in calls]
    found: list[_Search] = [_Search(site) for site in sites]
    for inputs in list(unseen_inputs(folded.captured.example, draws=_DRAWS)):
        wanted = _values_of(folded.captured.body, inputs, sites)
        _compare(folded.module.body, inputs, wanted, found)
    taps: list[Tap] = []
    seen = [entry.name for entry, _ in calls]
    left_out = {
        entry.name: "its statistics are written out in arithmetic"
        for entry in folded.report.batch_norms
        if entry.name not in seen
    }
    frames = frames_per_call(folded)
    for (entry, site), search in zip(calls, found, strict=True):
        place = search.best() if entry.status != "refused" else None
        if place is None:
            left_out[entry.name] = (
                "its statistics cannot be used"
                if entry.status == "refused"
                else "neither its input nor its output is computed after folding"
            )
            continue
        of, node = place
        rows, channels, *spatial = g.shape(site)
        if rows % frames:
            left_out[entry.name] = f"it has {rows} rows for {frames} frames"
            continue
        taps.append(Tap(entry.name, of, node, channels, rows // frames * math.prod(spatial)))
    return taps, left_out


class _Search:
    """The nodes that gave a BatchNorm's output, or its input, on every draw so far."""

    def __init__(self, site: fx.Node) -> None:
        self.site = site
        self.candidates: dict[str, list[str] | None] = {"output": None, "input": None}

    def narrow(self, of: str, nodes: Sequence[str]) -> None:
        before = self.candidates[of]
        self.candidates[of] = list(nodes) if before is None else [node for node in nodes if node in before]

    def best(self) -> tuple[Literal["output", "input"], str] | None:
        """The output where it is seen, else the input; the first node that computes it."""
        for of in ("output", "input"):
            nodes = self.candidates[of]
            if nodes:
                return of, nodes[0]
        return None


class _Interpreter(fx.Interpreter):
    """Runs a graph and shows every value."""

    def __init__(self, module: fx.GraphModule, show: Callable[[fx.Node, Any], None]) -> None:
        super().__init__(module)
        self._show = show

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self._show(n, value)
        return value


def _run(
    body: fx.GraphModule, inputs: Sequence[torch.Tensor], show: Callable[[str, torch.Tensor], None]
) -> None:
    """The float64 twin of a graph; ``show`` sees each tensor under the name of the node in ``body``."""
    twin = g.float64_twin(body)
    names = {b: a.name for a, b in zip(body.graph.nodes, twin.graph.nodes, strict=True)}

    def pass_on(node: fx.Node, value: Any) -> None:
        if isinstance(value, torch.Tensor) and node.op not in ("get_attr", "output"):
            show(names[node], value)

    with torch.no_grad():
        _Interpreter(twin, pass_on).run(*inputs)


def _values_of(
    body: fx.GraphModule, inputs: Sequence[torch.Tensor], sites: Sequence[fx.Node]
) -> dict[tuple[int, str], torch.Tensor]:
    """The output and the input of every BatchNorm call."""
    outputs = {site.name: number for number, site in enumerate(sites)}
    sources: dict[str, list[int]] = {}
    for number, site in enumerate(sites):
        sources.setdefault(g.data_input(site).name, []).append(number)
    values: dict[tuple[int, str], torch.Tensor] = {}

    def show(name: str, value: torch.Tensor) -> None:
        if name in outputs:
            values[outputs[name], "output"] = value
        for number in sources.get(name, ()):
            values[number, "input"] = value

    _run(body, inputs, show)
    return values


def _compare(
    body: fx.GraphModule,
    inputs: Sequence[torch.Tensor],
    wanted: dict[tuple[int, str], torch.Tensor],
    searches: Sequence[_Search],
) -> None:
    """Narrow each search to the nodes that give the wanted values on these inputs."""
    by_shape: dict[torch.Size, list[tuple[int, str]]] = {}
    for key, value in wanted.items():
        by_shape.setdefault(value.shape, []).append(key)
    matches: dict[tuple[int, str], list[str]] = {key: [] for key in wanted}

    def show(name: str, value: torch.Tensor) -> None:
        for key in by_shape.get(value.shape, ()):
            if _same(value, wanted[key]):
                matches[key].append(name)

    _run(body, inputs, show)
    for (number, of), nodes in matches.items():
        searches[number].narrow(of, nodes)


def _same(value: torch.Tensor, wanted: torch.Tensor) -> bool:
    if not value.is_floating_point() or value.numel() == 0:
        return False
    largest = float(wanted.abs().max())
    bound = _CLOSE * largest
    first, other = value.reshape(-1)[0], wanted.reshape(-1)[0]
    if not abs(float(first - other)) <= bound:  # most are told apart by one number
        return False
    return bool((value - wanted).abs().max() <= bound) and largest > 0


def frames_per_call(folded: FoldResult) -> int:
    """Frames per call, as the graph was captured."""
    return int(folded.captured.example[0].shape[0])
