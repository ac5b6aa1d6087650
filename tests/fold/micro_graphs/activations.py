"""Activations: what passes them, in which direction, with which sign."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tests.fold.micro_graphs.micro import Micro, Sizes
from tests.fold.networks import Net

Build = Callable[[Sizes], nn.Module]


def between(activation: Callable[[int], nn.Module], kernel: int = 1, padding: int = 0) -> Build:
    """Conv -> activation -> BatchNorm -> Conv."""
    return lambda s: nn.Sequential(
        nn.Conv2d(s.c, s.k, 3, padding=1), activation(s.k), nn.BatchNorm2d(s.k),
        nn.Conv2d(s.k, s.c, kernel, padding=padding),
    )  # fmt: skip


def after(activation: Callable[[int], nn.Module]) -> Build:
    """Conv -> activation -> BatchNorm."""
    return lambda s: nn.Sequential(nn.Conv2d(s.c, s.k, 3), activation(s.k), nn.BatchNorm2d(s.k))


def before(activation: Callable[[int], nn.Module], padding: int = 0, *, positive: bool = False) -> Build:
    """BatchNorm -> activation -> Conv, on the network's input."""
    kernel = 1 + 2 * padding
    return lambda s: nn.Sequential(
        nn.BatchNorm2d(s.c, affine=not positive), activation(s.c),
        nn.Conv2d(s.c, s.k, kernel, padding=padding),
    )  # fmt: skip


def applied(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[int], nn.Module]:
    return lambda channels: Net(lambda m, x: function(x))


def relu(channels: int) -> nn.Module:
    return nn.ReLU()


def relu6(channels: int) -> nn.Module:
    return nn.ReLU6()


def hardtanh(channels: int) -> nn.Module:
    return nn.Hardtanh(-0.5, 2.0)


def leaky(channels: int) -> nn.Module:
    return nn.LeakyReLU(0.1)


def prelu(channels: int) -> nn.Module:
    return nn.PReLU(channels, init=0.3)


def falling(channels: int) -> nn.Module:
    """A slope that is negative: no monotone function."""
    return nn.PReLU(channels, init=-0.3)


def rising(channels: int) -> nn.Module:
    """One slope for all channels."""
    return nn.PReLU(init=0.4)


clamp, clamp_min, absolute = (
    applied(lambda x: x.clamp(-0.5, 2.0)), applied(lambda x: x.clamp(min=-0.1)), applied(torch.abs)
)  # fmt: skip

_CLAMPS = {
    "relu": relu, "relu6": relu6, "hardtanh": hardtanh, "clamp": clamp, "clamp from below": clamp_min,
}  # fmt: skip
_SHIFT = "a shift passes neither the activation nor what is on the other side: one addition"
_SIGN = "an absolute value turns no sign round, and no shift passes it: a multiplication and an addition"
_BORDER = "the shift meets zero padding, or stays before the activation: one addition"

THROUGH = [
    *(Micro(f"conv -> {name} -> BatchNorm", after(f)) for name, f in _CLAMPS.items()),
    *(Micro(f"BatchNorm -> {name} -> conv", before(f)) for name, f in _CLAMPS.items()),
    *(Micro(f"BatchNorm -> {name} -> padded conv", before(f, 1), "reduced", _BORDER)
      for name, f in _CLAMPS.items()),
    Micro("BatchNorm, all s > 0 -> relu -> padded conv", before(relu, 1, positive=True), "reduced",
          "relu(s x + t) = s relu(x + t / s): one addition before the relu, none behind it"),
    *(Micro(f"conv -> {name} -> BatchNorm", after(f), "reduced", _SHIFT) for name, f in (
        ("leaky relu", leaky), ("prelu", prelu), ("prelu with one slope", rising))),
    *(Micro(f"BatchNorm -> {name} -> conv", before(f), "reduced", _SHIFT) for name, f in (
        ("leaky relu", leaky), ("prelu", prelu), ("prelu with one slope", rising), ("abs", absolute))),
    *(Micro(f"conv -> {name} -> BatchNorm", after(f), "kept", _SIGN) for name, f in (
        ("falling prelu", falling), ("abs", absolute))),
    *(Micro(f"conv -> {name} -> BatchNorm -> conv", between(f)) for name, f in (
        ("leaky relu", leaky), ("prelu", prelu), ("falling prelu", falling), ("abs", absolute))),
]  # fmt: skip
