"""Where in a folded graph the values that a BatchNorm normalised can still be seen.

A monitored artifact gives, beside the answers, the mean of each channel of what every BatchNorm gave. That
value exists where the BatchNorm was folded backward: the layer before it computes just that. What it was
given exists where it was folded forward, or is left; scale and shift are then applied to the means, which are
few numbers. Of branches that were merged into one convolution, or terms into one affine, neither exists.

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
from bnfold.export.means import Means, Plan, work
from bnfold.fold import FoldResult
from bnfold.fold.certificate import unseen_inputs
from bnfold.fold.site import batch_norm_calls, find_sites
from bnfold.signature import TensorSpec

aten = torch.ops.aten

# The folded weights are float32: their rounding is what may lie between the two graphs.
_CLOSE = 1e-4
_DRAWS = 2
# Of the multiplications and additions of the network; where they are few, what is not worth sparing: a tenth
# of a millisecond or two on one core.
_SHARE = 0.04
_FREE = 10_000_000
_READ = 30  # a value that is read for its mean, as in bnfold.export.means


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
    """The folded graph of a conversion, with taps; ``folded`` is not changed.

    Taps are added from the cheapest on, as far as together they cost a small share of the network's own work.
    """
    taps, left_out = find(folded)
    body = g.copy_body(folded.module.body)
    by_name = {node.name: node for node in body.graph.nodes}
    output = body.graph.output_node()
    frames = _frames(folded)
    most = max(_SHARE * work(body), _FREE * frames)
    means = Means(body)
    with body.graph.inserting_before(output):
        places = [_Place(body, means, by_name[place.node], frames) for place in taps]
        made = _afford(places, most)
        affines = {site.entry.name: site.affine for site in find_sites(folded.captured)}
        results = list(output.args[0])  # type: ignore[arg-type]
        specs = list(folded.module.outputs)
        kept: list[Tap] = []
        for index, place in enumerate(taps):
            if index not in made:
                left_out[place.layer] = (
                    f"to see it would cost too much: all taps together take at most {_SHARE:.0%} of the "
                    "network's own work"
                )
                continue
            number = len(kept)
            node = made[index]
            if place.of == "input":
                node = _through(body, means, node, affines[place.layer], number)
            results.append(node)
            kind = g.dtype_name(g.dtype(by_name[place.node]))
            specs.append(
                TensorSpec(f"tap.{number}", (folded.module.inputs[0].shape[0], place.channels), kind)
            )
            kept.append(place)
    output.args = (tuple(results),)
    body.graph.lint()
    body.recompile()
    return Tapped(body, tuple(specs), kept, left_out)


def _frames(folded: FoldResult) -> int:
    """Frames per call, as the graph was captured."""
    return int(folded.captured.example[0].shape[0])


class _Place:
    """One tap that may be added: the mean of each channel of each frame, (frames, channels)."""

    def __init__(self, body: fx.GraphModule, means: Means, source: fx.Node, frames: int) -> None:
        self._body, self._means, self._source = body, means, source
        self._rows = g.shape(source)[0] // frames  # several rows of a frame: its steps or its tokens

    def plan(self) -> Plan:
        """Its cost beside what is there, and how it is added."""
        if self._rows == 1 and g.value(self._source).dim() == 4:
            inner = self._means.plan(self._source)
            channels = g.shape(self._source)[1]
            return Plan(
                inner.cost, lambda: self._means.call(aten.reshape.default, inner.build(), [-1, channels])
            )
        return Plan(float(_READ * math.prod(g.shape(self._source))), self._direct)

    def _direct(self) -> fx.Node:
        source, value, call = self._source, g.value(self._source), self._means.call
        if self._rows > 1:
            apart = call(aten.reshape.default, source, [-1, self._rows, *value.shape[1:]])
            return call(aten.mean.dim, apart, [1, *range(3, value.dim() + 1)])
        if value.dim() > 2:
            return call(aten.mean.dim, source, list(range(2, value.dim())))
        return call(aten.clone.default, source)  # an exporter may not give one tensor two names


def _afford(places: Sequence[_Place], most: float) -> dict[int, fx.Node]:
    """Adds the cheapest of the places first, as long as ``most`` lasts: one may make another one cheaper."""
    made: dict[int, fx.Node] = {}
    waiting = sorted(range(len(places)), key=lambda index: places[index].plan().cost)
    left, before = most, -1
    while len(made) > before:
        before = len(made)
        for index in [index for index in waiting if index not in made]:
            plan = places[index].plan()
            if plan.cost <= left:
                left -= plan.cost
                made[index] = plan.build()
    return made


def _through(
    body: fx.GraphModule, means: Means, node: fx.Node, affine: Affine | None, number: int
) -> fx.Node:
    """The mean of what a BatchNorm makes of it: an affine map of a mean is the mean of the map."""
    assert affine is not None, "a BatchNorm without one is left out"
    kind = g.dtype(node)
    mode = g.value(node).fake_mode  # type: ignore[attr-defined]
    constants = []
    for name, values in (("scale", affine.scale), ("shift", affine.shift)):
        target = f"tap_{number}_{name}"
        tensor = torch.from_numpy(values).to(kind)
        body.register_buffer(target, tensor)
        constant = body.graph.get_attr(target)
        constant.meta["val"] = mode.from_tensor(tensor)
        constants.append(constant)
    scaled = means.call(aten.mul.Tensor, node, constants[0])
    return means.call(aten.add.Tensor, scaled, constants[1])


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
