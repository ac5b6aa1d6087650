"""The BatchNorms of a network: which there are, in what order they run, what they read, what they hold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

BatchNorm = nn.modules.batchnorm._BatchNorm
Statistics = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # mean and variance, by the layer's path


def norms(module: nn.Module, frame: torch.Tensor) -> dict[str, BatchNorm]:
    """The BatchNorms by path, in order of (first) execution."""
    paths = {part: path for path, part in module.named_modules() if isinstance(part, BatchNorm)}
    found: dict[str, BatchNorm] = {}

    def note(part: nn.Module, inputs: object) -> None:
        assert isinstance(part, BatchNorm)
        found.setdefault(paths[part], part)

    _watched(module, paths, note, frame)
    return found


def reads(module: nn.Module, layer: str, frames: torch.Tensor) -> torch.Tensor:
    """What one BatchNorm reads when the frames go through the network as it is (train or eval mode)."""
    seen: list[torch.Tensor] = []

    def note(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        seen.append(inputs[0].detach().clone())

    _watched(module, [module.get_submodule(layer)], note, frames)
    return seen[0]


def producer(module: nn.Module, layer: str, frame: torch.Tensor) -> str | None:
    """The path of the convolution or linear layer whose value this BatchNorm reads, and nothing between."""
    target = module.get_submodule(layer)
    made: dict[int, tuple[str, torch.Tensor]] = {}
    result: list[str | None] = []

    def remember(path: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_: nn.Module, inputs: object, output: torch.Tensor) -> None:
            made[id(output)] = (path, output)

        return hook

    linear = (nn.Linear, nn.modules.conv._ConvNd)
    handles = [
        part.register_forward_hook(remember(path))
        for path, part in module.named_modules()
        if isinstance(part, linear)
    ]
    try:
        _watched(module, [target], lambda _, x: result.append(made.get(id(x[0]), (None, None))[0]), frame)
    finally:
        for handle in handles:
            handle.remove()
    return result[0]


def _watched(
    module: nn.Module, parts: Iterable[nn.Module], note: Callable[..., object], frames: torch.Tensor
) -> None:
    handles = [part.register_forward_pre_hook(note) for part in parts]
    try:
        with torch.no_grad():
            module(frames)
    finally:
        for handle in handles:
            handle.remove()


def update(module: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Forward passes in train mode without a step: the weights stay, the statistics do not."""
    module.train()
    with torch.no_grad():
        for batch in batches:
            module(batch)
    module.eval()


def channels(chosen: torch.Tensor) -> tuple[int, ...]:
    """The numbers of the channels where a vector of booleans is true."""
    return tuple(int(number) for number in chosen.nonzero().flatten())


def variance(norm: BatchNorm) -> torch.Tensor:
    """The running variance, of a BatchNorm that has one."""
    assert norm.running_var is not None
    return norm.running_var


def reset(module: nn.Module) -> None:
    """Every BatchNorm's statistics as they are before training."""
    for part in module.modules():
        if isinstance(part, BatchNorm):
            part.reset_running_stats()


def stored(module: nn.Module, order: Iterable[str]) -> Statistics:
    """Running mean and variance by layer."""
    result = {}
    for path in order:
        part = module.get_submodule(path)
        assert isinstance(part, BatchNorm)
        assert part.running_mean is not None
        assert part.running_var is not None
        result[path] = (part.running_mean.double(), part.running_var.double())
    return result


def population(module: nn.Module, frames: torch.Tensor) -> Statistics:
    """The statistics of all frames as one batch in train mode: what training would want."""
    twin = copy.deepcopy(module)
    order = norms(twin, frames[:1])
    reset(twin)
    for part in order.values():
        part.momentum = 1.0
    update(twin, [frames])
    return stored(twin, order)


def observed(module: nn.Module, order: Iterable[str], frames: torch.Tensor) -> Statistics:
    """What the BatchNorms read in eval mode, as statistics: of deployment frames, say."""
    result = {}
    paths = {module.get_submodule(path): path for path in order}

    def note(part: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1).double()
        result[paths[part]] = (values.mean(1), values.var(1))

    _watched(module, paths, note, frames)
    return result


def effect(reference: Statistics, other: Statistics) -> dict[str, float]:
    """By layer, how far the statistics are from the reference in the channel where they are farthest.

    The larger of the shift of the mean in the reference's deviations and the logarithm of the ratio of the
    deviations. A channel whose reference has (next to) no variance is left out; values that are not finite
    give infinity.
    """
    result = {}
    for path, (mean, var) in reference.items():
        alive = var > 1e-6 * var.max()
        shift = ((other[path][0] - mean) / var.sqrt())[alive].abs()
        ratio = ((other[path][1] / var)[alive].log() / 2).abs()
        both = torch.maximum(shift, ratio)
        result[path] = float(torch.where(both.isfinite(), both, torch.inf).max())
    return result


def first_above(effects: Mapping[str, float], margin: float) -> str | None:
    """The first layer whose effect is above the margin."""
    return next((path for path, value in effects.items() if value > margin), None)
