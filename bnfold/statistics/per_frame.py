"""The last resort: BatchNorms that normalise each frame by its own spatial statistics, not by frozen ones.

    y[n, c, i] = gamma[c] * (x[n, c, i] - mean_i x[n, c, i]) / sqrt(var_i x[n, c, i] + eps) + beta[c]

That is what BatchNorm computes in train mode for a batch of one (and what instance normalisation always does:
Ulyanov, Vedaldi and Lempitsky, 2016). The answer to a frame does not depend on its batch, but the network is
another one than the one that was trained in larger batches: whatever a frame's own mean and contrast said is
lost in every such layer. `recalibrate` is nearly always the better repair.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnfold.capture.isolation import private_copy
from bnfold.errors import StatisticsError
from bnfold.finding import Finding
from bnfold.fold.report import BatchNormEntry


class FrameNorm(nn.Module):
    """One BatchNorm in this form; input (frames, channels, *spatial)."""

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.num_features = layer.num_features

    def forward(self, x: Tensor) -> Tensor:
        axes = list(range(2, x.dim()))
        # Deviations first: E[x^2] - E[x]^2 cancels where a mean is large, and can come out negative.
        apart = x - x.mean(axes, keepdim=True)
        variance = apart.square().mean(axes, keepdim=True)
        y = apart * torch.rsqrt(variance + self.eps)
        if self.weight is None:
            return y
        shape = (1, -1, *(1 for _ in axes))
        return y * self.weight.reshape(shape) + self.bias.reshape(shape)


def per_frame(module: nn.Module, example_inputs: tuple[Any, ...]) -> tuple[nn.Module, dict[str, int]]:
    """A copy whose BatchNorms normalise each frame by itself, wherever a frame has spatial positions.

    A layer without them (BatchNorm after a linear layer, or at 1 x 1) keeps its population statistics: one
    value has no statistics of its own.

    Args:
        module: not changed.
        example_inputs: of forward; they tell each layer's shape.

    Returns:
        The copy in eval mode, and the layers that were exchanged: their channels by name, in module order.

    Raises:
        StatisticsError: there is no layer that could be exchanged (BNF-A035).
    """
    private = private_copy(module).eval()
    positions = _positions(private, example_inputs)
    layers = {
        name: layer
        for name, layer in private.named_modules()
        if isinstance(layer, _BatchNorm) and positions.get(name, 0) > 1
    }
    exchanged = {name: layer.num_features for name, layer in layers.items()}
    if not exchanged:
        raise StatisticsError(
            "BNF-A035",
            "no BatchNorm sees more than one position per frame and channel: one value has no statistics",
            where=", ".join(positions) or "the network",
            fix="recalibrate the statistics: bnfold recalibrate",
        )
    # one for each layer, however many names it has
    made = {id(layer): FrameNorm(layer) for layer in layers.values()}
    for owner in list(private.modules()):
        for key, child in owner._modules.items():
            owner._modules[key] = made.get(id(child), child)
    if isinstance(private, _BatchNorm):
        private = FrameNorm(private)
    return private.eval(), exchanged


def _positions(module: nn.Module, example_inputs: tuple[Any, ...]) -> dict[str, int]:
    """Values per frame and channel that each BatchNorm is given: the fewest of its calls."""
    seen: dict[str, int] = {}
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):

            def note(_: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
                count = math.prod(given[0].shape[2:]) if given[0].dim() > 2 else 1
                seen[name] = min(seen.get(name, count), count)

            handles.append(layer.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            module(*example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def entries(exchanged: dict[str, int]) -> list[BatchNormEntry]:
    """The lines of the fold report for the layers that were exchanged: operators stay in their place."""
    why = "it normalises each frame by its own statistics, as asked: nothing is frozen that could be folded"
    return [BatchNormEntry(name, channels, status="kept", reason=why) for name, channels in exchanged.items()]


def marked(exchanged: dict[str, int]) -> Finding:
    """What every report of such a conversion says."""
    count = len(exchanged)
    return Finding(
        "BNF-A036",
        "warning",
        next(iter(exchanged)),
        f"{count} BatchNorm{'s' if count > 1 else ''} normalise each frame by its own statistics, as asked: "
        "this is another network than the one that was trained",
        {"layers": list(exchanged)},
        "measure its accuracy on real frames; bnfold recalibrate repairs the statistics instead",
    )
