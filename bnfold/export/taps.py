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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from bnfold import graph as g
from bnfold.affine import Affine
from bnfold.drift.reference import LayerReference
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
        moment: 1: its mean, 2: its second moment about the population mean.
    """

    layer: str
    of: Literal["output", "input"]
    node: str
    channels: int
    positions: int
    moment: Literal[1, 2] = 1


@dataclass(frozen=True)
class Tapped:
    """A folded graph with the channel means as further outputs.

    Attributes:
        body: the outputs of the folded graph, then one of shape (batch, channels) for each tap.
        outputs: the specs of all outputs; a tap's name is ``tap.0`` and so on.
        taps: in execution order of the BatchNorms, second moments behind the means of the same values.
        left_out: BatchNorms whose values are not there any more, by name: why.
    """

    body: fx.GraphModule
    outputs: tuple[TensorSpec, ...]
    taps: list[Tap]
    left_out: dict[str, str]


def tap(folded: FoldResult, squared: Mapping[str, LayerReference] | None = None) -> Tapped:
    """The folded graph of a conversion, with taps; ``folded`` is not changed.

    Taps are added from the cheapest on, as far as together they cost a small share of the network's own work.

    Args:
        folded: the conversion's fold.
        squared: by name, the layers whose second moments are tapped as well, where their means are and a
            frame has several positions. Whoever asks for them pays for them: they have no share to keep to.
    """
    taps, left_out = find(folded)
    body = g.copy_body(folded.module.body)
    by_name = {node.name: node for node in body.graph.nodes}
    output = body.graph.output_node()
    frames = _frames(folded)
    most = max(_SHARE * work(body), _FREE * frames)
    means = Means(body)
    with body.graph.inserting_before(output):
        places = [_Place(means, by_name[place.node], frames) for place in taps]
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
            affine = affines[place.layer] if place.of == "input" else None
            if place.of == "input":
                node = _through(body, means, node, affine, number)
            seen = [(place, node)]
            if squared is not None and place.positions > 1:
                layer = squared[place.layer]
                node = _squares(body, means, places[index], layer, affine, number + 1)
                seen.append((replace(place, moment=2), node))
            kind = g.dtype_name(g.dtype(by_name[place.node]))
            shape = (folded.module.inputs[0].shape[0], place.channels)
            for one, node in seen:
                results.append(node)
                specs.append(TensorSpec(f"tap.{len(kept)}", shape, kind))
                kept.append(one)
    output.args = (tuple(results),)
    body.graph.lint()
    body.recompile()
    return Tapped(body, tuple(specs), kept, left_out)


def _frames(folded: FoldResult) -> int:
    """Frames per call, as the graph was captured."""
    return int(folded.captured.example[0].shape[0])


class _Place:
    """One tap that may be added: the mean of each channel of each frame, (frames, channels)."""

    def __init__(self, means: Means, source: fx.Node, frames: int) -> None:
        self._means, self.source = means, source
        self._rows = g.shape(source)[0] // frames  # several rows of a frame: its steps or its tokens

    def plan(self) -> Plan:
        """Its cost beside what is there, and how it is added."""
        if self._rows == 1 and g.value(self.source).dim() == 4:
            inner = self._means.plan(self.source)
            channels = g.shape(self.source)[1]
            return Plan(
                inner.cost, lambda: self._means.call(aten.reshape.default, inner.build(), [-1, channels])
            )
        return Plan(float(_READ * math.prod(g.shape(self.source))), lambda: self._direct(self.source))

    def squares(self, center: fx.Node) -> fx.Node:
        """The mean square about ``center``, which has one number for each channel and fits the value."""
        around = self._means.call(aten.sub.Tensor, self.source, center)
        square = self._means.call(aten.mul.Tensor, around, around)
        if self._rows == 1 and g.value(square).dim() == 4:  # as `Means` does: exporters know this form
            pooled = self._means.call(aten.mean.dim, square, [2, 3], True)
            return self._means.call(aten.reshape.default, pooled, [-1, g.shape(square)[1]])
        return self._direct(square)

    def _direct(self, source: fx.Node) -> fx.Node:
        value, call = g.value(source), self._means.call
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
    scaled = means.call(aten.mul.Tensor, node, _constant(body, f"tap_{number}_scale", affine.scale, node))
    return means.call(aten.add.Tensor, scaled, _constant(body, f"tap_{number}_shift", affine.shift, node))


def _squares(
    body: fx.GraphModule,
    means: Means,
    place: _Place,
    layer: LayerReference,
    affine: Affine | None,
    number: int,
) -> fx.Node:
    """The second moment about the population mean of what a BatchNorm gives.

    Of an input x, scaled and shifted by ``affine``, it is scale^2 times that about what becomes the mean.
    """
    scale, center = np.ones_like(layer.mean), layer.mean
    if affine is not None:
        scale = affine.scale
        center = np.divide(layer.mean - affine.shift, scale, out=np.zeros_like(scale), where=scale != 0)
    beside = center.reshape(-1, *[1] * (g.value(place.source).dim() - 2))
    node = place.squares(_constant(body, f"tap_{number}_center", beside, place.source))
    if affine is None:
        return node
    return means.call(aten.mul.Tensor, node, _constant(body, f"tap_{number}_scale", np.square(scale), node))


def _constant(body: fx.GraphModule, target: str, values: NDArray[np.float64], like: fx.Node) -> fx.Node:
    """A buffer of the graph with the type of ``like``."""
    tensor = torch.from_numpy(values).to(g.dtype(like))
    body.register_buffer(target, tensor)
    constant = body.graph.get_attr(target)
    constant.meta["val"] = g.value(like).fake_mode.from_tensor(tensor)  # type: ignore[attr-defined]
    return constant


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
