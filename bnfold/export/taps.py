"""A folded graph with further outputs: the channel means of what its BatchNorms gave.

Where a BatchNorm's output is seen (`bnfold.export.sightings`), its mean is a tap; where its input is,
scale and shift are applied to the mean, which is few numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from bnfold import graph as g
from bnfold.affine import Affine
from bnfold.drift.reference import LayerReference
from bnfold.export.means import Means, Plan, work
from bnfold.export.sightings import Tap, find, frames_per_call
from bnfold.fold import FoldResult
from bnfold.fold.site import find_sites
from bnfold.signature import TensorSpec

aten = torch.ops.aten

# Of the multiplications and additions of the network; where they are few, what is not worth sparing: a tenth
# of a millisecond or two on one core.
_SHARE = 0.04
_FREE = 10_000_000
_READ = 30  # a value that is read for its mean, as in bnfold.export.means


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
    frames = frames_per_call(folded)
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
                source, layer = by_name[place.node], squared[place.layer]
                node = _squares(body, means, source, frames, layer, affine, number + 1)
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


class _Place:
    """One tap that may be added: the mean of each channel of each frame, (frames, channels)."""

    def __init__(self, means: Means, source: fx.Node, frames: int) -> None:
        self._means, self._source = means, source
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
    scaled = means.call(aten.mul.Tensor, node, _constant(body, f"tap_{number}_scale", affine.scale, node))
    return means.call(aten.add.Tensor, scaled, _constant(body, f"tap_{number}_shift", affine.shift, node))


def _squares(
    body: fx.GraphModule,
    means: Means,
    source: fx.Node,
    frames: int,
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
    beside = center.reshape(-1, *[1] * (g.value(source).dim() - 2))
    around = means.call(
        aten.sub.Tensor, source, _constant(body, f"tap_{number}_center", beside, source)
    )
    square = means.call(aten.mul.Tensor, around, around)
    node = _Place(means, square, frames).plan().build()
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
