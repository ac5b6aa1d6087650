"""The proof in float64 that a fold is exact.

The oracle is the captured graph, unedited, in float64, on inputs that no rule has seen; the new weights
are still in float64. Two measures:

* each site, replayed on the reference's own input to that site, so that errors of other sites do not mix
in; * the whole network, from its inputs to its outputs.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import fx
from torch.fx.node import map_arg

from bnfold import graph as g
from bnfold.capture import Captured
from bnfold.numerics import max_abs, max_rel_error

SITE_TOLERANCE = 1e-12
NETWORK_TOLERANCE = 1e-10
_CHAOS_FACTOR = 10.0
_FLOAT64_EPS = 2.0**-52
_BROKEN = object()


@dataclass(frozen=True)
class Certificate:
    """What the replay measured.

    Attributes:
        sites: largest relative error by BatchNorm number; a site without a finite reference is missing.
        tolerances: for ``sites``.
        network: largest relative error over the outputs; None where the reference is not finite.
        tolerance: for ``network``.
    """

    sites: dict[int, float]
    tolerances: dict[int, float]
    network: float | None
    tolerance: float

    @property
    def network_failed(self) -> bool:
        """Whether the whole network is further off than its tolerance."""
        return self.network is not None and not self.network <= self.tolerance

    def failed_sites(self) -> list[int]:
        return [number for number, error in self.sites.items() if not error <= self.tolerances[number]]


def certify(
    captured: Captured, folded: fx.GraphModule, unusable: frozenset[str], cancels: Sequence[float]
) -> Certificate:
    """Replay ``folded`` (weights in float64) against the captured graph.

    Args:
        unusable: BatchNorm calls whose own statistics give no finite number; on both sides they pass
            their input on, so that what follows them can be certified all the same.
    """
    with torch.random.fork_rng(devices=[]):  # a random operator draws the same on both sides
        return _certify(captured, folded, unusable, cancels)


def _certify(
    captured: Captured, folded: fx.GraphModule, unusable: frozenset[str], cancels: Sequence[float]
) -> Certificate:
    reference, candidate = _Replay(captured.body, unusable), _Replay(folded, unusable)
    sites: dict[int, float] = defaultdict(float)
    tolerances: dict[int, float] = defaultdict(lambda: SITE_TOLERANCE)
    network, comparable = 0.0, not unusable
    worst: list[torch.Tensor] = []
    for inputs, values in _with_reference(captured.example, reference):
        for number, error, largest in candidate.replay_sites(inputs, values):
            sites[number] = max(sites[number], error)
            lost = _CHAOS_FACTOR * _FLOAT64_EPS * cancels[number] / largest if largest > 0 else 0.0
            tolerances[number] = max(tolerances[number], lost)
        if not all(math.isfinite(error) for error in sites.values()):
            break  # it cannot be run: the caller undoes those sites and comes back
        expected, actual = reference.outputs(values), candidate.outputs(candidate.run(inputs))
        if not all(torch.isfinite(e).all() for e in expected if e.is_floating_point()):
            comparable = False
            continue
        error = max(
            (max_rel_error(a.numpy(), e.numpy()) for a, e in zip(actual, expected, strict=True)), default=0.0
        )
        if error >= network:
            network, worst = error, inputs
    ill_conditioned = max(tolerances.values(), default=0.0)
    tolerance = NETWORK_TOLERANCE
    if ill_conditioned > SITE_TOLERANCE:
        tolerance = max(tolerance, _CHAOS_FACTOR * ill_conditioned)
    if comparable and network > tolerance:
        tolerance = max(tolerance, _CHAOS_FACTOR * _one_ulp_change(reference, worst))
    return Certificate(dict(sites), tolerances, network if comparable else None, tolerance)


def unseen_inputs(example: Sequence[torch.Tensor], draws: int = 2) -> list[list[torch.Tensor]]:
    """Seeded inputs like the example: floats are normal with its spread, integers stay in its range."""
    generator = torch.Generator().manual_seed(20151)
    drawn = []
    for _ in range(draws):
        inputs = []
        for tensor in example:
            if tensor.is_floating_point():
                wide = tensor.double()
                centre = float(wide.mean()) if wide.numel() else 0.0
                spread = float(wide.std()) if wide.numel() > 1 else 1.0
                spread = spread if math.isfinite(spread) and spread > 0 else 1.0
                noise = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
                inputs.append(noise * spread + (centre if math.isfinite(centre) else 0.0))
            else:
                order = torch.randperm(tensor.numel(), generator=generator)
                inputs.append(tensor.reshape(-1)[order].reshape(tensor.shape))
        drawn.append(inputs)
    return drawn


def _with_reference(
    example: Sequence[torch.Tensor], reference: _Replay
) -> Iterator[tuple[list[torch.Tensor], dict[str, Any]]]:
    """Unseen inputs and every value of the reference on them.

    Where one of them gives no finite output (a logarithm), its magnitude takes its place.
    """
    for inputs in unseen_inputs(example):
        values = reference.run(inputs)
        outputs = reference.outputs(values)
        if not all(torch.isfinite(out).all() for out in outputs if out.is_floating_point()):
            inputs = [tensor.abs() if tensor.is_floating_point() else tensor for tensor in inputs]
            values = reference.run(inputs)
        yield inputs, values


class _Replay:
    """Runs a graph in float64, node by node."""

    def __init__(self, body: fx.GraphModule, unusable: frozenset[str]) -> None:
        self._source = body
        self._twin = g.float64_twin(body)
        self._unusable = unusable
        # node_copy keeps the order, so that the twin's nodes pair with the body's
        self._pairs = list(zip(body.graph.nodes, self._twin.graph.nodes, strict=True))
        self._name = {twin: node.name for node, twin in self._pairs}

    def run(self, inputs: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Every node's value, by the node's name."""
        feed = iter(inputs)
        values: dict[str, Any] = {}
        with torch.no_grad():
            for node, twin in self._pairs:
                if node.op == "placeholder":
                    values[node.name] = next(feed)
                elif node.op != "output":
                    values[node.name] = self._evaluate(node, twin, values)
        return values

    def outputs(self, values: dict[str, Any]) -> list[torch.Tensor]:
        results = cast(tuple[fx.Node, ...], self._source.graph.output_node().args[0])
        return [values[node.name] for node in results]

    def _evaluate(self, node: fx.Node, twin: fx.Node, values: dict[str, Any]) -> Any:
        if node.op == "get_attr":
            return g.fetch(self._twin, str(twin.target))
        if node.meta.get("reference", node.name) in self._unusable:
            return values[g.data_input(node).name]

        def look_up(source: fx.Node) -> Any:
            return values[self._name[source]]

        if g.draws(twin):
            torch.manual_seed(zlib.crc32(node.name.encode()))  # on both sides the same draw
        return twin.target(*map_arg(twin.args, look_up), **map_arg(twin.kwargs, look_up))  # type: ignore[operator]

    def _attempt(self, node: fx.Node, twin: fx.Node, values: dict[str, Any]) -> Any:
        """The value, or _BROKEN where what a rule wrote cannot even be computed."""
        if any(values[source.name] is _BROKEN for source in node.all_input_nodes):
            return _BROKEN
        try:
            return self._evaluate(node, twin, values)
        except Exception:  # whatever an operator raises of shapes and types: the fold is wrong, and undone
            return _BROKEN

    def replay_sites(
        self, inputs: Sequence[torch.Tensor], reference: dict[str, Any]
    ) -> list[tuple[int, float, float]]:
        """Compute only what folding touched, each region from the reference's own values at its border."""
        feed = iter(inputs)
        values: dict[str, Any] = {}
        touched: dict[str, frozenset[int]] = {}
        errors: list[tuple[int, float, float]] = []
        with torch.no_grad():
            for node, twin in self._pairs:
                if node.op == "output":
                    continue
                if node.op == "placeholder":
                    values[node.name], touched[node.name] = next(feed), frozenset()
                    continue
                if node.op == "get_attr":
                    values[node.name] = self._evaluate(node, twin, values)
                    touched[node.name] = frozenset()
                    continue
                open_sites = frozenset[int]().union(
                    *(touched[source.name] for source in node.all_input_nodes)
                )
                sites = node.meta["sites"] | open_sites
                equal = node.meta["reference"]
                if equal is not None and not sites:
                    values[node.name], touched[node.name] = reference[equal], frozenset()
                    continue
                value = self._attempt(node, twin, values)
                if value is _BROKEN:
                    errors.extend((number, math.inf, 0.0) for number in sites)
                if equal is None:
                    values[node.name], touched[node.name] = value, sites
                    continue
                expected = reference[equal]
                found = expected if value is _BROKEN else value
                for actual, wanted in zip(_tensors(found), _tensors(expected), strict=True):
                    if bool(torch.isfinite(wanted).all()):
                        error = max_rel_error(actual.numpy(), wanted.numpy())
                        errors.extend((number, error, max_abs(wanted.numpy())) for number in sites)
                values[node.name], touched[node.name] = expected, frozenset()
        return errors


def _tensors(value: Any) -> list[torch.Tensor]:
    """A value, or the several of an operator such as an LSTM."""
    return list(value) if isinstance(value, tuple | list) else [value]


def _one_ulp_change(reference: _Replay, inputs: Sequence[torch.Tensor]) -> float:
    """How far one float64 ulp on every input moves the reference's outputs."""
    moved = [
        torch.from_numpy(np.nextafter(tensor.numpy(), np.inf)) if tensor.is_floating_point() else tensor
        for tensor in inputs
    ]
    here = reference.outputs(reference.run(inputs))
    there = reference.outputs(reference.run(moved))
    return max((max_rel_error(a.numpy(), b.numpy()) for a, b in zip(there, here, strict=True)), default=0.0)
