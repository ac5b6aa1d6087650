"""Causes 9, 12, 13 and 14: what training, fine-tuning and averaging do to statistics by the way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sample_models.faults.norms import effect, first_above, norms, population, stored, update
from sample_models.faults.planted import WHOLE, Evidence, PlantedFault, State
from sample_models.faults.samples import Sample
from sample_models.faults.shift import MARGIN, corruption

BATCH = 16
STEPS = 40  # 0.9^40 = 0.015


def sorted_batches(sample: Sample, seed: int) -> PlantedFault:
    """9: batches of one or two from files that are sorted. The average remembers the last ten batches."""
    module = sample.load()
    right = stored(module, norms(module, sample.held_out(seed)[:1]))
    pool = sample.pool()
    shuffled = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))]
    in_order = shuffled.frames[shuffled.order.argsort(stable=True)]
    update(module, torch.split(in_order, sample.tiny)[-STEPS:])
    effects = effect(right, stored(module, right))
    steps = sample.steps + min(STEPS, -(-len(pool) // sample.tiny))
    evidence = Evidence(
        sample.name, sample.model, {WHOLE: module.state_dict()}, sample.held_out(seed), steps=steps
    )
    how = f"the batches were of {sample.tiny}, from sorted files"
    return _spread(9, seed, evidence, effects, how)


def drifting_backbone(sample: Sample, seed: int) -> PlantedFault:
    """12: a new head on a frozen backbone. Its parameters take no gradient, but it stayed in train mode."""
    module = sample.load()
    pretrained: State = {name: value.clone() for name, value in module.state_dict().items()}
    right = stored(module, norms(module, sample.held_out(seed)[:1]))
    name, corrupt = corruption(seed)
    tune_head(sample, module.train(), seed, corrupt, STEPS)
    effects = effect(right, stored(module, right))
    evidence = Evidence(
        sample.name,
        sample.model,
        {WHOLE: module.state_dict()},
        sample.held_out(seed),
        against=pretrained,
        steps=sample.steps + STEPS,
    )
    how = f"fine-tuned on frames that are {name}, with a frozen backbone in train mode"
    # the buffers of the very first layer are no longer the pretrained ones, whatever the size of the effect
    return PlantedFault(12, seed, evidence, WHOLE, next(iter(right)), None, "restore", how, effects)


def tune_head(
    sample: Sample, module: nn.Module, seed: int, domain: Callable[[torch.Tensor], torch.Tensor], steps: int
) -> None:
    """Train the last linear layer alone, with the modules in the modes they are in."""
    head = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    module.requires_grad_(False)
    head.requires_grad_(True)
    optimizer = torch.optim.Adam(head.parameters(), 1e-3)
    for batch in sample.batches(seed, steps, BATCH):
        optimizer.zero_grad()
        torch.autograd.backward(sample.loss(module(domain(batch.frames)), batch.targets))
        optimizer.step()
    module.requires_grad_(True)
    module.eval()


def disagreeing_ranks(sample: Sample, seed: int) -> PlantedFault:
    """13: two processes, each with its own part of the sorted files, and statistics that nobody merges."""
    pool = sample.pool()
    low = pool.order <= pool.order.median()
    states: list[State] = []
    for rank, part in enumerate((pool[low], pool[~low])):
        module = sample.load()
        generator = torch.Generator().manual_seed(2 * seed + rank)
        size = min(BATCH, sample.batch)
        picks = [torch.randperm(len(part), generator=generator)[:size] for _ in range(STEPS)]
        update(module, [part.frames[pick] for pick in picks])
        states.append(module.state_dict())
    layer = next(iter(norms(module, pool.frames[:1])))
    evidence = Evidence(
        sample.name,
        sample.model,
        {WHOLE: states[0]},
        sample.held_out(seed),
        against=states[1],
        steps=sample.steps + STEPS,
    )
    how = "two processes trained the same weights on different classes; each kept its own statistics"
    return PlantedFault(13, seed, evidence, WHOLE, layer, None, "merge", how)


def stale_statistics(sample: Sample, seed: int) -> PlantedFault:
    """14: the statistics are those of the network before.

    Even seeds: the weights of two short trainings are averaged; odd seeds: half of each layer's weights are
    pruned.
    """
    module = sample.load()
    if seed % 2 == 0:
        parts = [_trained(sample, 2 * seed + run) for run in range(2)]
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_((parts[0][name] + parts[1][name]) / 2)
        how = "the weights of two trainings were averaged without an update of the statistics"
    else:
        prune(module, 0.5)
        how = "half of each layer's weights were pruned without an update of the statistics"
    right = population(module, sample.pool().frames[:256])
    effects = effect(right, stored(module, right))
    evidence = Evidence(sample.name, sample.model, {WHOLE: module.state_dict()}, sample.held_out(seed))
    return _spread(14, seed, evidence, effects, how)


def _trained(sample: Sample, seed: int, steps: int = 12) -> State:
    """The parameters after a few steps at a high rate, as at the end of one cycle of SWA."""
    module = sample.load().train()
    rate = 1e-3 if sample.pool().targets.is_floating_point() else 0.1
    optimizer = torch.optim.SGD(module.parameters(), rate, momentum=0.9)
    for batch in sample.batches(seed, steps, BATCH):
        optimizer.zero_grad()
        torch.autograd.backward(sample.loss(module(batch.frames), batch.targets))
        optimizer.step()
    return module.state_dict()


def prune(module: nn.Module, share: float) -> None:
    """Set that share of each layer's weights to zero, the smallest first; the last layer stays whole."""
    layers = [part for part in module.modules() if isinstance(part, nn.Linear | nn.modules.conv._ConvNd)]
    with torch.no_grad():
        for layer in layers[:-1]:
            sizes = layer.weight.abs()
            limit = sizes.flatten().kthvalue(max(1, int(share * sizes.numel()))).values
            layer.weight[sizes <= limit] = 0


def _spread(cause: int, seed: int, evidence: Evidence, effects: dict[str, float], how: str) -> PlantedFault:
    """A fault of all layers more or less; blamed is the first that is clearly off."""
    layer = first_above(effects, MARGIN)
    if layer is None:
        raise LookupError(f"{evidence.sample} does not mind: {how}")
    return PlantedFault(cause, seed, evidence, WHOLE, layer, None, "recalibrate", how, effects)
