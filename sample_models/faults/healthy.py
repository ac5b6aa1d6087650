"""The same evidence as for a fault, with nothing the matter: no check may find an error in it."""

from __future__ import annotations

import copy
from collections.abc import Callable

from sample_models.faults.norms import update
from sample_models.faults.planted import WHOLE, Evidence, State
from sample_models.faults.poison import average
from sample_models.faults.samples import Sample
from sample_models.faults.training import tune_head

STEPS, BATCH = 10, 64


def trained(sample: Sample, seed: int) -> Evidence:
    """A checkpoint, and frames of a deployment like those of the training."""
    return Evidence(
        sample.name,
        sample.model,
        {WHOLE: sample.load().state_dict()},
        sample.held_out(seed),
        steps=sample.steps,
        deployment=sample.held_out(seed, deployment=True),
    )


def averaged(sample: Sample, seed: int) -> Evidence:
    """Plain weights and their exponential moving average, buffers included, in one file."""
    module = sample.load()
    ema = copy.deepcopy(module.state_dict())
    for batch in sample.batches(seed, STEPS, BATCH):
        update(module, [batch.frames])
        average(ema, module.state_dict())
    states = {"model": module.state_dict(), "ema": ema}
    return Evidence(sample.name, sample.model, states, sample.held_out(seed), steps=sample.steps + STEPS)


def fine_tuned(sample: Sample, seed: int) -> Evidence:
    """A new head on a frozen backbone that was in eval mode, and the pretrained file."""
    module = sample.load()
    tune_head(sample, module, seed, lambda frames: frames, STEPS)
    pretrained = sample.load().state_dict()
    return _against(sample, seed, module.state_dict(), pretrained, sample.steps)


def synchronised(sample: Sample, seed: int) -> Evidence:
    """The files of two processes whose statistics were synchronised in every step."""
    module = sample.load()
    update(module, [batch.frames for batch in sample.batches(seed, STEPS, BATCH)])
    other = copy.deepcopy(module.state_dict())
    return _against(sample, seed, module.state_dict(), other, sample.steps + STEPS)


def in_half_precision(sample: Sample, seed: int) -> Evidence:
    """A checkpoint saved in half precision, which holds all its values."""
    state = sample.load().state_dict()
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    return Evidence(sample.name, sample.model, {WHOLE: half}, sample.held_out(seed), steps=sample.steps)


def _against(sample: Sample, seed: int, state: State, other: State, steps: int) -> Evidence:
    frames = sample.held_out(seed)
    return Evidence(sample.name, sample.model, {WHOLE: state}, frames, against=other, steps=steps)


SITUATIONS: dict[str, Callable[[Sample, int], Evidence]] = {
    "trained": trained,
    "averaged": averaged,
    "fine_tuned": fine_tuned,
    "synchronised": synchronised,
    "in_half_precision": in_half_precision,
}
