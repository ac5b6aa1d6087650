"""Cause 17, real covariate shift: what a camera or a scanner does to frames that the network never saw."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from sample_models.faults.norms import effect, first_above, norms, observed, stored
from sample_models.faults.planted import WHOLE, Evidence, PlantedFault
from sample_models.faults.samples import Sample

MARGIN = 0.25
"""The effect from which statistics are called wrong. Healthy ones stay below half of it."""


def _brighter(frames: torch.Tensor) -> torch.Tensor:
    return frames + 0.4 * frames.std()


def _flat(frames: torch.Tensor) -> torch.Tensor:
    return 0.35 * frames


def _grainy(frames: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return frames + frames.std() * torch.randn(frames.shape, generator=generator)


def _fogged(frames: torch.Tensor) -> torch.Tensor:
    """Less contrast over a background that grows from one edge to the other."""
    ramp = torch.linspace(0, 1, frames.shape[-1])
    return 0.5 * frames + frames.std() * ramp


def _blurred(frames: torch.Tensor) -> torch.Tensor:
    pool = F.avg_pool3d if frames.ndim == 5 else F.avg_pool2d
    return pool(frames, 5, stride=1, padding=2, count_include_pad=False)


CORRUPTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "brighter": _brighter,
    "of little contrast": _flat,
    "grainy": _grainy,
    "fogged": _fogged,
    "blurred": _blurred,
}


def corruption(seed: int) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]]:
    """One after the other."""
    return list(CORRUPTIONS.items())[seed % len(CORRUPTIONS)]


def covariate_shift(sample: Sample, seed: int) -> PlantedFault:
    """17: the statistics are right, and the frames of the deployment are others than the training's."""
    module = sample.load()
    name, corrupt = corruption(seed)
    deployment = corrupt(sample.held_out(seed, deployment=True))
    order = norms(module, deployment[:1])
    effects = effect(stored(module, order), observed(module, order, deployment))
    layer = first_above(effects, MARGIN)
    if layer is None:
        raise LookupError(f"{sample.name} does not mind that frames are {name}")
    evidence = Evidence(
        sample.name,
        sample.model,
        {WHOLE: module.state_dict()},
        sample.held_out(seed),
        steps=sample.steps,
        deployment=deployment,
    )
    how = f"the frames of the deployment are {name}"
    return PlantedFault(17, seed, evidence, WHOLE, layer, None, "adapt", how, effects)
