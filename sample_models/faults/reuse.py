"""Causes 10, 11 and 15: by how a network is put together, a BatchNorm runs twice, or has no statistics."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bnfold import modelspec
from sample_models.faults.norms import BatchNorm, norms, update
from sample_models.faults.planted import WHOLE, Evidence, PlantedFault, State
from sample_models.faults.samples import Sample

NETWORKS = Path(__file__).resolve().parent / "networks.py"
BATCH = 8


def two_domains(sample: Sample, seed: int, steps: int = 25) -> PlantedFault:
    """10: one BatchNorm at two call sites, a frame and its negative; its average is of both and fits none."""
    model, arguments = f"{NETWORKS}:two_views", {"model": sample.model}
    module = modelspec.build(model, arguments)
    module.load_state_dict(_inside(sample.load().state_dict()))
    _count_from(module, 2 * sample.steps)
    update(module, [batch.frames for batch in sample.batches(seed, steps, BATCH)])
    layer = next(iter(norms(module, sample.held_out(seed)[:1])))
    evidence = Evidence(
        sample.name,
        model,
        {WHOLE: module.state_dict()},
        sample.held_out(seed),
        arguments,
        steps=sample.steps + steps,
    )
    how = "the network runs for each frame and for its negative, with the same BatchNorms"
    return PlantedFault(10, seed, evidence, WHOLE, layer, None, "one_norm_per_call", how)


def checkpointed(sample: Sample, seed: int, steps: int = 12) -> PlantedFault:
    """11: activation checkpointing runs a part of the network again in the backward pass; its statistics are
    updated twice a step. Even seeds: the whole network; odd seeds: one part of it."""
    module = sample.load()
    frame = sample.held_out(seed)[:1]
    order = list(norms(module, frame))
    inside = {path: [name for name in order if name.startswith(f"{path}.")] for path in _parts(module)}
    parts = [path for path, found in inside.items() if 0 < len(found) < len(order)]
    if seed % 2 and parts:
        generator = torch.Generator().manual_seed(seed)
        path = parts[int(torch.randint(len(parts), (), generator=generator))]
        part, twice = module.get_submodule(path), inside[path]
    else:
        path, part, twice = "the network", module, order
    for name in order:
        _count_from(module.get_submodule(name), (2 if name in twice else 1) * sample.steps)
    forward = part.forward
    part.forward = lambda *inputs: checkpoint(forward, *inputs, use_reentrant=False)
    module.train()
    for batch in sample.batches(seed, steps, BATCH):
        torch.autograd.backward(sample.loss(module(batch.frames), batch.targets))  # no step: the weights stay
    part.forward = forward
    evidence = Evidence(
        sample.name,
        sample.model,
        {WHOLE: module.eval().state_dict()},
        sample.held_out(seed),
        steps=sample.steps + steps,
    )
    how = f"activation checkpointing ran the forward pass of {path} twice in each step"
    return PlantedFault(11, seed, evidence, WHOLE, twice[0], None, "momentum", how)


def batch_statistics(sample: Sample, seed: int) -> PlantedFault:
    """15: even seeds: ``track_running_stats=False``; odd seeds: BatchNorms that stay in train mode in use."""
    if seed % 2 == 0:
        model, how = "without_statistics", "the BatchNorms were made with track_running_stats=False"
        state = {k: v for k, v in sample.load().state_dict().items() if "running_" not in k}
        state = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
    else:
        model, how = "forced_batch_statistics", "the BatchNorms are kept in train mode in evaluation"
        state = _inside(sample.load().state_dict())
    layer = next(iter(norms(sample.load(), sample.held_out(seed)[:1])))
    evidence = Evidence(
        sample.name, f"{NETWORKS}:{model}", {WHOLE: state}, sample.held_out(seed), {"model": sample.model}
    )
    layer = layer if seed % 2 == 0 else f"net.{layer}"
    return PlantedFault(15, seed, evidence, WHOLE, layer, None, "population_statistics", how)


def _parts(module: nn.Module) -> list[str]:
    """Containers that are called with one tensor."""
    lists = (nn.ModuleList, nn.ModuleDict)
    return [
        path
        for path, part in module.named_modules()
        if path and not isinstance(part, lists) and next(part.children(), None) is not None
    ]


def _inside(state: State) -> State:
    return {f"net.{name}": value for name, value in state.items()}


def _count_from(module: nn.Module, steps: int) -> None:
    """As if the training before had been the same; only its end is run here."""
    for part in module.modules():
        if isinstance(part, BatchNorm) and part.num_batches_tracked is not None:
            part.num_batches_tracked.fill_(steps)
