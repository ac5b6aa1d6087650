"""Blocks of published networks in which channels can die: what pruning has to find its way through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

_BY_NAME: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "relu6": lambda _: nn.ReLU6(),
    "hardswish": lambda _: nn.Hardswish(),
    "silu": lambda _: nn.SiLU(),
    "sigmoid": lambda _: nn.Sigmoid(),
    "leaky": lambda _: nn.LeakyReLU(0.1),
    "prelu": nn.PReLU,
    "none": lambda _: nn.Identity(),
}
ACTIVATIONS = tuple(_BY_NAME)
BLOCKS = (
    "conv", "valid", "pointwise", "grouped", "separable", "inverted", "multiplier", "residual",
    "pre-activation", "excitation", "cat", "shuffle", "pixel shuffle", "pixel unshuffle", "split", "chunk",
    "transposed", "transposed, grouped", "max pool", "average pool", "reflect", "repvgg", "tokens", "scale",
)  # fmt: skip
HEADS = ("global", "flatten", "conv", "raw", "mean")


def kill(norm: nn.Module, constants: Mapping[int, float]) -> None:
    """Make these channels of a BatchNorm constant: gamma 0, and beta the constant."""
    assert isinstance(norm, nn.modules.batchnorm._NormBase)
    with torch.no_grad():
        for channel, constant in constants.items():
            norm.weight[channel], norm.bias[channel] = 0.0, constant


class Block(nn.Module):
    """One block from ``inputs`` to ``self.outputs`` channels, around ``outputs``."""

    def __init__(self, kind: str, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.kind, self.outputs, o = kind, outputs, outputs

        def unit(i: int, o: int, kernel: int = 3, padding: int = 1, groups: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(i, o, kernel, padding=padding, groups=groups, bias=padding == 0)
            return nn.Sequential(conv, nn.BatchNorm2d(o), _BY_NAME[activation](o))

        def normed(conv: nn.Module, o: int) -> list[nn.Module]:
            return [conv, nn.BatchNorm2d(o), _BY_NAME[activation](o)]

        def point(i: int, o: int) -> nn.Sequential:
            return unit(i, o, 1, 0)

        pre = [nn.BatchNorm2d(inputs), _BY_NAME[activation](inputs), unit(inputs, o), nn.Conv2d(o, inputs, 1)]
        bodies: dict[str, Callable[[], nn.Module]] = {
            "valid": lambda: unit(inputs, o, 3, 0),
            "pointwise": lambda: point(inputs, o),
            "grouped": lambda: unit(inputs, o, groups=2),
            "separable": lambda: nn.Sequential(unit(inputs, inputs, groups=inputs), point(inputs, o)),
            "inverted": lambda: nn.Sequential(
                point(inputs, 2 * o),
                unit(2 * o, 2 * o, groups=2 * o),
                nn.Conv2d(2 * o, o, 1),
                nn.BatchNorm2d(o),
            ),
            "multiplier": lambda: nn.Sequential(
                unit(inputs, 2 * inputs, groups=inputs), point(2 * inputs, o)
            ),
            "residual": lambda: nn.Sequential(
                unit(inputs, o), nn.Conv2d(o, inputs, 3, padding=1), nn.BatchNorm2d(inputs)
            ),
            "pre-activation": lambda: nn.Sequential(*pre),
            "shuffle": lambda: nn.Sequential(unit(inputs, o), nn.ChannelShuffle(2)),
            "pixel shuffle": lambda: nn.Sequential(point(inputs, 4 * o), nn.PixelShuffle(2), nn.MaxPool2d(2)),
            "pixel unshuffle": lambda: nn.Sequential(
                point(inputs, o), nn.Upsample(scale_factor=2), nn.PixelUnshuffle(2)
            ),
            "chunk": lambda: unit(inputs, 2 * o),
            "transposed": lambda: nn.Sequential(
                *normed(nn.ConvTranspose2d(inputs, o, 2, 2), o), nn.AvgPool2d(2)
            ),
            "transposed, grouped": lambda: nn.Sequential(
                *normed(nn.ConvTranspose2d(inputs, o, 3, 1, 1, groups=2), o)
            ),
            "max pool": lambda: nn.MaxPool2d(3, 1, 1),
            "average pool": lambda: nn.AvgPool2d(3, 1, 1),
            "reflect": lambda: nn.Sequential(nn.ReflectionPad2d(1), unit(inputs, o, 3, 0)),
        }
        self.body = bodies.get(kind, lambda: unit(inputs, o))()
        if kind in ("residual", "pre-activation", "max pool", "average pool"):
            self.outputs = inputs
        elif kind == "excitation":
            self.squeeze, self.excite = nn.Conv2d(o, 4, 1), nn.Conv2d(4, o, 1)
        elif kind == "cat":
            self.other, self.outputs = point(inputs, 3), o + 3
        elif kind == "pixel unshuffle":
            self.outputs = 4 * o
        elif kind == "split":
            self.other = point(o // 2, o)
        elif kind == "chunk":
            self.other = point(2 * o, o)
        elif kind == "repvgg":
            self.other = point(inputs, o)
        elif kind == "tokens":
            self.mix = nn.Linear(o, o)
        elif kind == "scale":
            self.factor, self.shift = (nn.Parameter(torch.randn(o, 1, 1)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        match self.kind:
            case "residual" | "pre-activation":
                return x + y
            case "excitation":
                gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
                return y * torch.sigmoid(gate)
            case "cat":
                return torch.cat([y, self.other(x)], 1)
            case "split":
                first, _ = y.split([y.shape[1] // 2, y.shape[1] - y.shape[1] // 2], 1)
                return self.other(first)
            case "chunk":
                first, second = y.chunk(2, 1)
                return self.other(torch.cat([second, F.relu(first)], 1))
            case "repvgg":
                return F.relu(y + self.other(x))
            case "tokens":
                return self.mix(y.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(y.shape)
            case "scale":
                return y * self.factor + self.shift
        return y


class Network(nn.Module):
    """A stem, blocks ``(kind, channels, activation)``, and a head, for inputs (batch, 3, at least 9, 8)."""

    def __init__(self, blocks: Sequence[tuple[str, int, str]], head: str, channels: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.blocks, shrinks = nn.ModuleList(), 0
        for kind, outputs, activation in blocks:
            shrinks += kind == "valid"
            if (channels % 2 and "grouped" in kind) or (kind == "valid" and shrinks > 2):
                kind = "conv"
            block = Block(kind, channels, outputs, activation)
            self.blocks.append(block)
            channels = block.outputs
        self.averages = head == "mean"
        heads: dict[str, Callable[[], nn.Module]] = {
            "global": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)),
            "flatten": lambda: nn.Sequential(
                nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(2 * channels, 5)
            ),
            "conv": lambda: nn.Conv2d(channels, 3, 3, padding=1),
            "raw": nn.Identity,
            "mean": lambda: nn.Sequential(
                nn.Linear(channels, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)
            ),
        }
        self.head = heads[head]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        y: torch.Tensor = self.head(x.mean((2, 3)) if self.averages else x)
        return y
