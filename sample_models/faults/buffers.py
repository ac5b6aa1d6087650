"""Causes 4, 5 and 16: statistics that were hardly, never or wrongly filled."""

from __future__ import annotations

import torch

from sample_models.faults.norms import norms, reset, update
from sample_models.faults.planted import WHOLE, Evidence, PlantedFault, State
from sample_models.faults.samples import Sample

BATCH = 64


def unconverged(sample: Sample, seed: int) -> PlantedFault:
    """4: reset, and then a few updates: their initial value still weighs (1 - momentum)^T."""
    module = sample.load()
    layer = next(iter(norms(module, sample.held_out(seed)[:1])))
    steps = 3 + int(torch.randint(9, (), generator=torch.Generator().manual_seed(seed)))  # 0.9^11 = 0.31
    reset(module)
    update(module, [batch.frames for batch in sample.batches(seed, steps, BATCH)])
    evidence = Evidence(
        sample.name, sample.model, {WHOLE: module.state_dict()}, sample.held_out(seed), steps=steps
    )
    how = f"the statistics were reset and then updated {steps} times"
    return PlantedFault(4, seed, evidence, WHOLE, layer, None, "debias", how)


def never_updated(sample: Sample, seed: int) -> PlantedFault:
    """5: even seeds: an EMA over ``parameters()`` leaves its buffers as they were made; odd seeds: a file
    without the buffers was loaded with ``strict=False`` and saved again."""
    module = sample.load()
    layer = next(iter(norms(module, sample.held_out(seed)[:1])))
    trained: State = {name: value.clone() for name, value in module.state_dict().items()}
    reset(module)
    if seed % 2 == 0:
        states, state = {"model": trained, "ema": module.state_dict()}, "ema"
        steps: int | None = sample.steps
        how = "the averaged copy of the weights was made from parameters(), which has no buffers"
    else:
        parameters = {name for name, _ in module.named_parameters()}
        kept = {name: value for name, value in trained.items() if name in parameters}
        module.load_state_dict(kept, strict=False)
        states, state, steps = {WHOLE: module.state_dict()}, WHOLE, None
        how = "a file without the statistics was loaded with strict=False"
    evidence = Evidence(sample.name, sample.model, states, sample.held_out(seed), steps=steps)
    return PlantedFault(5, seed, evidence, state, layer, None, "recalibrate", how)


def wrong_assignment(sample: Sample, seed: int) -> PlantedFault:
    """16: a conversion script writes the mean into both buffers: of all layers, or (odd seeds) of one."""
    module = sample.load()
    order = list(norms(module, sample.held_out(seed)[:1]))
    if seed % 2:
        order = [order[int(torch.randint(len(order), (), generator=torch.Generator().manual_seed(seed)))]]
    state = module.state_dict()
    for path in order:
        state[f"{path}.running_var"].copy_(state[f"{path}.running_mean"])
    evidence = Evidence(sample.name, sample.model, {WHOLE: state}, sample.held_out(seed), steps=sample.steps)
    how = "running_var was filled with running_mean"
    return PlantedFault(16, seed, evidence, WHOLE, order[0], None, "restore", how)
