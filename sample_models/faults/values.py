"""Causes 6 to 8: variances that are next to nothing, negative, or too large for half precision."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sample_models.faults.norms import BatchNorm, channels, norms, producer, reads, reset, update, variance
from sample_models.faults.planted import WHOLE, Evidence, PlantedFault
from sample_models.faults.samples import Sample

BATCH = 32
RAW_STEPS = 50


def dead_channel(sample: Sample, seed: int) -> PlantedFault:
    """6: weight decay has taken a filter to nothing; its variance follows, and its gain rises to the limit.

    A BatchNorm undoes the size of the filter before it, so no gradient holds the filter up. Where what it
    reads moves by more than rounding, the channel explodes.
    """
    module = sample.load()
    frame = sample.held_out(seed)[:1]
    generator = torch.Generator().manual_seed(seed)
    order = norms(module, frame)
    fed = {path: made for path in order if (made := producer(module, path, frame)) is not None}
    layer = list(fed)[int(torch.randint(len(fed), (), generator=generator))]
    norm = order[layer]
    strongest = norm.weight.detach().abs().argsort(descending=True)
    channel = int(strongest[int(torch.randint(max(1, len(strongest) // 4), (), generator=generator))])
    source = module.get_submodule(fed[layer])
    with torch.no_grad():
        for weight in source.parameters():
            weight[channel] *= 1e-7
    values = reads(module, layer, next(iter(sample.batches(seed, 1, BATCH))).frames)
    _follow(norm, channel, values)
    evidence = Evidence(
        sample.name, sample.model, {WHOLE: module.state_dict()}, sample.held_out(seed), steps=sample.steps
    )
    how = f"weight decay took filter {channel} of {fed[layer]} to nothing"
    return PlantedFault(6, seed, evidence, WHOLE, layer, (channel,), "floor_variance", how)


def _follow(norm: BatchNorm, channel: int, values: torch.Tensor) -> None:
    """The channel's statistics after many more updates; torch's own rule, for this channel alone."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    own = slice(channel, channel + 1)
    mean, var, momentum = norm.running_mean[own], norm.running_var[own], norm.momentum
    assert momentum is not None
    for _ in range(350):  # 0.9^350 = 1e-16
        torch.batch_norm(values[:, own], None, None, mean, var, True, momentum, norm.eps, False)


def negative_variance(sample: Sample, seed: int) -> PlantedFault:
    """7: statistics computed as E[x^2] - E[x]^2 in single precision, where a channel has a large mean.

    A bias before a BatchNorm has no gradient and may drift to any value; training does not notice. Networks
    without such a bias get the other way to a negative variance: two checkpoints extrapolated, ``a + 2 (b -
    a)``, buffers and all, as task arithmetic does; b was adapted to frames of little contrast.
    """
    module = sample.load()
    frame = sample.held_out(seed)[:1]
    order = norms(module, frame)
    fed = [(path, made) for path in order if (made := producer(module, path, frame)) is not None]
    biased = [(path, made) for path, made in fed if module.get_submodule(made).bias is not None]
    if biased:
        layer, blamed = _cancelled(module, order, biased, sample, seed)
        how = f"a bias drifted, and the variance of {layer} was computed as E[x^2] - E[x]^2 in float32"
    else:
        layer, blamed = _extrapolated(module, order, sample, seed)
        how = "two checkpoints were extrapolated, the running variances included"
    evidence = Evidence(
        sample.name, sample.model, {WHOLE: module.state_dict()}, sample.held_out(seed), steps=sample.steps
    )
    return PlantedFault(7, seed, evidence, WHOLE, layer, blamed, "recalibrate", how)


def _cancelled(
    module: nn.Module, order: dict[str, BatchNorm], biased: list[tuple[str, str]], sample: Sample, seed: int
) -> tuple[str, tuple[int, ...]]:
    """A drifted bias and the float32 formula; drifts further until the variance comes out negative."""
    generator = torch.Generator().manual_seed(seed)
    layer, made = biased[int(torch.randint(len(biased), (), generator=generator))]
    norm, bias = order[layer], module.get_submodule(made).bias
    assert isinstance(bias, torch.Tensor)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    channel = int(torch.randint(norm.num_features, (), generator=generator))
    values = (
        reads(module, layer, next(iter(sample.batches(seed, 1, BATCH))).frames).transpose(0, 1).flatten(1)
    )
    with torch.no_grad():
        while norm.running_var[channel] + norm.eps > 0:
            drift = 500 * (1 + torch.rand((), generator=generator))
            bias[channel] += drift
            values[channel] += drift
            mean = values.mean(1)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(values.square().mean(1) - mean.square())
    return layer, (channel,)


def _extrapolated(
    module: nn.Module, order: dict[str, BatchNorm], sample: Sample, seed: int
) -> tuple[str, tuple[int, ...]]:
    adapted = copy.deepcopy(module)
    update(adapted, [0.3 * batch.frames for batch in sample.batches(seed, 40, BATCH)])
    base, other = module.state_dict(), adapted.state_dict()
    for name, value in base.items():
        if value.is_floating_point():
            value.add_(other[name] - value, alpha=2)
    negative = {path: channels(variance(norm) < 0) for path, norm in order.items()}
    layer = next(path for path, found in negative.items() if found)
    return layer, negative[layer]


def half_overflow(sample: Sample, seed: int) -> PlantedFault:
    """8: trained on frames in their raw 16-bit numbers; single precision bears it, half does not.

    Even seeds: the file is in single precision, and is fine until it is cast. Odd seeds: it was saved in
    half precision, and some variances in it are infinite.
    """
    module = sample.load()
    frames = sample.held_out(seed) * sample.raw
    order = norms(module, frames[:1])
    reset(module)
    update(module, [batch.frames * sample.raw for batch in sample.batches(seed, RAW_STEPS, BATCH)])
    over = {path: channels(variance(norm) > 65504) for path, norm in order.items()}
    layer = next((path for path, found in over.items() if found), None)
    if layer is None:
        raise LookupError("no BatchNorm reads the frames themselves")
    state = module.state_dict()
    how = "the network was trained on raw 16-bit numbers"
    if seed % 2:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        how += ", and saved in half precision"
    evidence = Evidence(sample.name, sample.model, {WHOLE: state}, frames, steps=RAW_STEPS)
    return PlantedFault(8, seed, evidence, WHOLE, layer, over[layer], "float32", how)
