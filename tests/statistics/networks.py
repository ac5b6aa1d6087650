"""Small networks whose statistics look like those of a training, to plant faults in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

STEPS = 500


def healthy(seed: int = 0, channels: tuple[int, ...] = (4, 4, 6)) -> nn.Sequential:
    """Convolutions and BatchNorms named bn1, bn2 and so on; two of them with equal sizes."""
    network = nn.Sequential()
    before = 3
    for number, width in enumerate(channels, start=1):
        network.add_module(f"conv{number}", nn.Conv2d(before, width, 3))
        network.add_module(f"bn{number}", nn.BatchNorm2d(width))
        network.add_module(f"relu{number}", nn.ReLU())
        before = width
    return trained(network, seed)


def trained(network: Any, seed: int = 0, steps: int = STEPS) -> Any:
    """The network with drawn weights and statistics, and its counters at ``steps``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                for parameter in module.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is None:
                continue
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator))
            module.running_var.copy_(torch.rand(shape, generator=generator) * 1.5 + 0.7)
            module.num_batches_tracked.fill_(steps)
            if module.affine:
                module.weight.copy_(torch.rand(shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(shape, generator=generator))
    return network.eval()


class Shared(nn.Module):
    """One BatchNorm after two convolutions, under two names, beside one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.one = self.other = nn.BatchNorm2d(3)
        self.own = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self.other(self.second(self.one(self.first(x)))))


class Twice(nn.Module):
    """The same under one name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.bn, self.own = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self.bn(self.second(self.bn(self.first(x)))))


class Frozen(nn.Module):
    """As detection code writes it: everything is a buffer, nothing is counted, there is no eps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.5), ("bias", 0.25), ("running_mean", 0.5), ("running_var", 2.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * self.running_var.rsqrt()
        return x * scale.reshape(1, -1, 1, 1) + (self.bias - self.running_mean * scale).reshape(1, -1, 1, 1)
