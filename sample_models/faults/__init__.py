"""Planted faults: a healthy sample model, one cause of the catalogue, a seed -> what a user would then hold.

    fault = plant("resnet", 1, seed=0)
    fault.evidence.states, fault.evidence.frames     # what there is to find it with
    fault.cause, fault.layer, fault.channels         # what is really the matter
    spare("resnet", "trained", seed=0)               # the evidence of a healthy one

The seventeen causes of "train() is fine, eval() is not" come about here as they do in life, as far as that
can be afforded: batches really go through the network in train mode, and what happens to its statistics
happens by torch's own update. The weights were trained beforehand; they stay, unless they are the cause.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sample_models.faults import buffers, healthy, poison, reuse, shift, training, values
from sample_models.faults.planted import Evidence, Files, PlantedFault
from sample_models.faults.samples import SAMPLES, Sample

__all__ = [
    "CAUSES",
    "SAMPLES",
    "SITUATIONS",
    "Evidence",
    "Files",
    "PlantedFault",
    "Sample",
    "plant",
    "samples_for",
    "spare",
]

SITUATIONS = healthy.SITUATIONS

CAUSES: dict[int, Callable[[Sample, int], PlantedFault]] = {
    1: poison.bad_batch,
    2: poison.bad_average,
    3: poison.single_value,
    4: buffers.unconverged,
    5: buffers.never_updated,
    6: values.dead_channel,
    7: values.negative_variance,
    8: values.half_overflow,
    9: training.sorted_batches,
    10: reuse.two_domains,
    11: reuse.checkpointed,
    12: training.drifting_backbone,
    13: training.disagreeing_ranks,
    14: training.stale_statistics,
    15: reuse.batch_statistics,
    16: buffers.wrong_assignment,
    17: shift.covariate_shift,
}

# Where a cause cannot come about: a classifier takes one size only; a sigmoid bounds what BatchNorm reads.
_IMPOSSIBLE = {
    3: {"vgg"},
    6: {"mlp_after"},
    8: {"mlp_after"},
}


def samples_for(cause: int) -> list[str]:
    """The sample models that this cause can be planted in."""
    return [name for name in SAMPLES if name not in _IMPOSSIBLE.get(cause, set())]


def spare(sample: str, situation: str, seed: int = 0) -> Evidence:
    """The evidence of a situation (one of SITUATIONS) in which a healthy sample model is left healthy.

    Raises:
        KeyError: there is no such sample model or situation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SITUATIONS[situation](SAMPLES[sample], seed)


def plant(sample: str, cause: int, seed: int = 0) -> PlantedFault:
    """Plant one cause in a sample model; the same seed gives the same fault.

    Raises:
        KeyError: there is no such sample model or cause.
        ValueError: the cause cannot come about in this network.
    """
    planter, chosen = CAUSES[cause], SAMPLES[sample]
    if sample not in samples_for(cause):
        raise ValueError(f"cause {cause} cannot come about in {sample}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout
        return planter(chosen, seed)
