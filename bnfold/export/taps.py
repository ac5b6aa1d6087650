"""Where in a folded graph the values that a BatchNorm normalised can still be seen.

A monitored artifact gives, beside the answers, the mean of each channel of what every BatchNorm gave. That
value exists where the BatchNorm was folded backward: the layer before it computes just that. What it was
given exists where it was folded forward, or is left; scale and shift are then applied to the means, which are
few numbers. Of branches that were merged into one convolution neither exists.

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
from bnfold.affine import Affine
from bnfold.fold import FoldResult
from bnfold.fold.certificate import unseen_inputs
from bnfold.fold.site import batch_norm_calls, find_sites
from bnfold.signature import TensorSpec

aten = torch.ops.aten

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
    """

    layer: str
    of: Literal["output", "input"]
    node: str
    channels: int
    positions: int


@dataclass(frozen=True)
class Tapped:
    """A folded graph with the channel means as further outputs.

    Attributes:
        body: the outputs of the folded graph, then one of shape (batch, channels) for each tap.
        outputs: the specs of all outputs; a tap's name is ``tap.0`` and so on.
        taps: in execution order of the BatchNorms.
        left_out: BatchNorms whose values are not there any more, by name: why.
    """

    body: fx.GraphModule
    outputs: tuple[TensorSpec, ...]
    taps: list[Tap]
    left_out: dict[str, str]


def tap(folded: FoldResult) -> Tapped:
    """The folded graph of a conversion, with taps; ``folded`` is not changed."""
    taps, left_out = find(folded)
    body = g.copy_body(folded.module.body)
    by_name = {node.name: node for node in body.graph.nodes}
    output = body.graph.output_node()
    results = list(output.args[0])  # type: ignore[arg-type]
    specs = list(folded.module.outputs)
    affines = {site.entry.name: site.affine for site in find_sites(folded.captured)}
    frames = _frames(folded)
    for number, place in enumerate(taps):
        source = by_name[place.node]
        with body.graph.inserting_before(output):
            made = _Means(body, source, place, frames)
            results.append(made.node if place.of == "output" else made.through(affines[place.layer], number))
        kind = g.dtype_name(g.dtype(source))
        specs.append(TensorSpec(f"tap.{number}", (folded.module.inputs[0].shape[0], place.channels), kind))
    output.args = (tuple(results),)
    body.graph.lint()
    body.recompile()
    return Tapped(body, tuple(specs), taps, left_out)


def _frames(folded: FoldResult) -> int:
    """Frames per call, as the graph was captured."""
    return int(folded.captured.example[0].shape[0])


class _Means:
    """The node that computes the mean of each channel of each frame, (frames, channels)."""

    def __init__(self, body: fx.GraphModule, source: fx.Node, place: Tap, frames: int) -> None:
        self._body = body
        value = g.value(source)
        rows = g.shape(source)[0] // frames  # several rows of a frame: its steps or its tokens
        node = source
        if rows > 1:
            node = self._call(aten.reshape.default, node, [-1, rows, *value.shape[1:]])
            node = self._call(aten.mean.dim, node, [1, *range(3, value.dim() + 1)])
        elif value.dim() > 2:
            node = self._call(aten.mean.dim, node, list(range(2, value.dim())))
        else:  # a copy: an exporter may not give one tensor two names
            node = self._call(aten.clone.default, node)
        self.node = node
        self._place = place

    def _call(self, operator: Any, *arguments: Any) -> fx.Node:
        node = self._body.graph.call_function(operator, arguments)
        values = [g.value(a) if isinstance(a, fx.Node) else a for a in arguments]
        node.meta["val"] = operator(*values)
        return node

    def through(self, affine: Affine | None, number: int) -> fx.Node:
        """The mean of what the BatchNorm makes of it: an affine map of a mean is the mean of the map."""
        assert affine is not None, "a BatchNorm without one is left out"
        kind = g.dtype(self.node)
        mode = g.value(self.node).fake_mode  # type: ignore[attr-defined]
        constants = []
        for name, values in (("scale", affine.scale), ("shift", affine.shift)):
            target = f"tap_{number}_{name}"
            tensor = torch.from_numpy(values).to(kind)
            self._body.register_buffer(target, tensor)
            constant = self._body.graph.get_attr(target)
            constant.meta["val"] = mode.from_tensor(tensor)
            constants.append(constant)
        scaled = self._call(aten.mul.Tensor, self.node, constants[0])
        return self._call(aten.add.Tensor, scaled, constants[1])


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
    frames = _frames(folded)
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
