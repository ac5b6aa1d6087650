"""The proof in float64 that a fold is exact.

The oracle is the captured graph, unedited, in float64, on inputs that no rule has seen; the new weights
are still in float64. Two measures:

* each site, replayed on the reference's own input to that site, so that errors of other sites do not mix in;
* the whole network, from its inputs to its outputs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from bnfold.capture import Captured
from bnfold.fold.replay import Replay
from bnfold.numerics import max_rel_error

SITE_TOLERANCE = 1e-12
NETWORK_TOLERANCE = 1e-10
_CHAOS_FACTOR = 10.0
_FLOAT64_EPS = 2.0**-52


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
    reference, candidate = Replay(captured.body, unusable), Replay(folded, unusable)
    sites: dict[int, float] = defaultdict(float)
    tolerances: dict[int, float] = defaultdict(lambda: SITE_TOLERANCE)
    network, comparable = 0.0, not unusable
    worst: list[torch.Tensor] = []
    for drawn in unseen_inputs(captured.example):
        inputs, errors, expected = _with_finite_answer(drawn, candidate, reference)
        for number, error, largest in errors:
            sites[number] = max(sites[number], error)
            lost = _CHAOS_FACTOR * _FLOAT64_EPS * cancels[number] / largest if largest > 0 else 0.0
            tolerances[number] = max(tolerances[number], lost)
        if not all(math.isfinite(error) for error in sites.values()):
            break  # it cannot be run: the caller undoes those sites and comes back
        if not _is_finite(expected):
            comparable = False
            continue
        actual = candidate.run(inputs)
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


def _with_finite_answer(
    inputs: list[torch.Tensor], candidate: Replay, reference: Replay
) -> tuple[list[torch.Tensor], list[tuple[int, float, float]], list[torch.Tensor]]:
    """Unseen inputs, the errors of the sites on them, and the reference's outputs.

    Where they give no finite output (a logarithm), their magnitudes take their place.
    """
    errors, outputs = candidate.sites(inputs, reference)
    if not _is_finite(outputs):
        inputs = [tensor.abs() if tensor.is_floating_point() else tensor for tensor in inputs]
        errors, outputs = candidate.sites(inputs, reference)
    return inputs, errors, outputs


def _is_finite(tensors: Sequence[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())


def _one_ulp_change(reference: Replay, inputs: Sequence[torch.Tensor]) -> float:
    """How far one float64 ulp on every input moves the reference's outputs."""
    moved = [
        torch.from_numpy(np.nextafter(tensor.numpy(), np.inf)) if tensor.is_floating_point() else tensor
        for tensor in inputs
    ]
    here, there = reference.run(inputs), reference.run(moved)
    return max((max_rel_error(a.numpy(), b.numpy()) for a, b in zip(there, here, strict=True)), default=0.0)
