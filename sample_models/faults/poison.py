"""Causes 1 to 3: one bad batch, and statistics that never recover from it."""

from __future__ import annotations

import copy
from unittest import mock

import torch
from torch import nn

from sample_models.faults.norms import norms, update
from sample_models.faults.planted import WHOLE, Evidence, PlantedFault, State
from sample_models.faults.samples import Sample

BATCH = 16
BEFORE, AFTER = 2, 6  # clean batches before and after the bad one


def bad_batch(sample: Sample, seed: int) -> PlantedFault:
    """1: a batch that is not finite; the loss guard skips the step, but not the statistics.

    Even seeds: a frame with a NaN, which spoils every layer from the first on. Odd seeds: in mixed precision
    one value of one channel overflows in front of some BatchNorm; that channel is the origin.
    """
    module = sample.load()
    batches = [batch.frames for batch in sample.batches(seed, BEFORE + 1 + AFTER, BATCH)]
    update(module, batches[:BEFORE])
    layer, channels, how = _poison(module, batches[BEFORE], seed)
    update(module, batches[BEFORE + 1 :])
    steps = sample.steps + len(batches)
    evidence = _evidence(sample, {WHOLE: module.state_dict()}, seed, steps)
    return PlantedFault(1, seed, evidence, WHOLE, layer, channels, "recalibrate", how)


def bad_average(sample: Sample, seed: int) -> PlantedFault:
    """2: training goes back to the last good weights after a bad batch, but their EMA is kept."""
    module = sample.load()
    ema = copy.deepcopy(module.state_dict())
    last_good = copy.deepcopy(module.state_dict())
    batches = [batch.frames for batch in sample.batches(seed, 1 + AFTER, BATCH)]
    layer, channels, how = _poison(module, batches[0], seed)
    average(ema, module.state_dict())
    module.load_state_dict(last_good)
    for batch in batches[1:]:
        update(module, [batch])
        average(ema, module.state_dict())
    evidence = _evidence(sample, {"model": module.state_dict(), "ema": ema}, seed, sample.steps + AFTER)
    how += "; the weights were restored after it, their exponential moving average was not"
    return PlantedFault(2, seed, evidence, "ema", layer, channels, "plain_weights", how)


def single_value(sample: Sample, seed: int) -> PlantedFault:
    """3: a last batch of one frame, so small that a channel has one value: its variance is 0/0.

    Torch refuses this in Python by now; its kernel, called without the check as by older versions and other
    libraries, still divides by n - 1 = 0.
    """
    module = sample.load()
    frame = next(iter(sample.batches(seed, 1, 1))).frames
    small, layer = smallest(module, frame)
    with mock.patch("torch.nn.functional._verify_batch_size"):
        update(module, [small])
    update(module, [batch.frames for batch in sample.batches(seed + 1, AFTER, BATCH)])
    evidence = _evidence(sample, {WHOLE: module.state_dict()}, seed, sample.steps + 1 + AFTER)
    how = f"a batch of one frame of {'x'.join(map(str, small.shape[2:]))} left one value per channel"
    return PlantedFault(3, seed, evidence, WHOLE, layer, None, "recalibrate", how)


def smallest(module: nn.Module, frame: torch.Tensor) -> tuple[torch.Tensor, str]:
    """The largest cut of the frame that leaves some BatchNorm one value per channel, and the first such.

    Raises:
        LookupError: the network takes no such frame.
    """
    order = norms(module, frame)
    sizes: dict[str, int] = {}

    def note(path: str) -> object:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            sizes[path] = inputs[0].numel() // inputs[0].shape[1]

        return hook

    handles = [part.register_forward_pre_hook(note(path)) for path, part in order.items()]  # type: ignore[arg-type]
    try:
        for side in range(max(frame.shape[2:]), 0, -1):
            cut = frame
            for axis in range(2, frame.ndim):
                cut = cut.narrow(axis, 0, min(side, cut.shape[axis]))
            try:
                with torch.no_grad():
                    module(cut)
            except RuntimeError:  # too small for its classifier or its pooling
                continue
            alone = [path for path in order if sizes[path] == 1]
            if alone:
                return cut, alone[0]
    finally:
        for handle in handles:
            handle.remove()
    raise LookupError("no frame leaves one value per channel")


def _poison(module: nn.Module, batch: torch.Tensor, seed: int) -> tuple[str, tuple[int, ...] | None, str]:
    """One forward pass in train mode of a batch with a bad value: where it struck, and how."""
    generator = torch.Generator().manual_seed(seed)
    order = norms(module, batch[:1])
    at = int(torch.randint(len(batch), (), generator=generator))
    if seed % 2 == 0:
        batch = batch.clone()
        batch[at].flatten()[int(torch.randint(batch[0].numel(), (), generator=generator))] = torch.nan
        update(module, [batch])
        return next(iter(order)), None, "a frame with a NaN went through the network in train mode"
    layer = list(order)[int(torch.randint(len(order), (), generator=generator))]
    channel = int(torch.randint(order[layer].num_features, (), generator=generator))

    def overflow(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        values = inputs[0].clone()
        values[at, channel].view(-1)[0] = 7e4  # half precision ends at 65504
        return (values.half().float(),)

    handle = order[layer].register_forward_pre_hook(overflow)
    try:
        update(module, [batch])
    finally:
        handle.remove()
    return layer, (channel,), f"one value of channel {channel} overflowed half precision before {layer}"


def average(ema: State, state: State, decay: float = 0.9) -> None:
    """One step of an exponential moving average over a whole state dict; counts are copied."""
    for name, value in state.items():
        if value.is_floating_point():
            ema[name].mul_(decay).add_(value, alpha=1 - decay)
        else:
            ema[name].copy_(value)


def _evidence(sample: Sample, states: dict[str, State], seed: int, steps: int) -> Evidence:
    return Evidence(sample.name, sample.model, states, sample.held_out(seed), steps=steps)
