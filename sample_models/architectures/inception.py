"""Inception with BatchNorm, small, and with sigmoid (Ioffe and Szegedy, 2015, section 4.2).

Four branches side by side, joined along the channels: 1 x 1; 1 x 1 and 3 x 3; 1 x 1 and two 3 x 3 (in place
of a 5 x 5); a pooling and 1 x 1. A block that halves the size has no 1 x 1 branch and passes its pooling on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Unit = Callable[..., nn.Module]


def _unit(activation: type[nn.Module], after: bool) -> Unit:
    """Convolutions as this network has them: BatchNorm before the activation, or after it."""

    def unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=after)
        norm, act = nn.BatchNorm2d(outputs), activation()
        return nn.Sequential(conv, act, norm) if after else nn.Sequential(conv, norm, act)

    return unit


class Block(nn.Module):
    """Keeps the size and gives 4 * ``width`` channels, or halves it and gives inputs + 2 * ``width``."""

    def __init__(self, unit: Unit, inputs: int, width: int, *, halve: bool = False) -> None:
        super().__init__()
        stride, inner = (2 if halve else 1), width // 2
        branches = [
            nn.Sequential(unit(inputs, inner, 1), unit(inner, width, 3, stride)),
            nn.Sequential(unit(inputs, inner, 1), unit(inner, width, 3), unit(width, width, 3, stride)),
        ]
        if halve:
            branches.append(nn.Sequential(nn.MaxPool2d(3, 2, 1)))
        else:
            branches.append(nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(inputs, width, 1)))
            branches.append(nn.Sequential(unit(inputs, width, 1)))
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Inception(nn.Module):
    """Input: (batch, 1, 28, 28). Output: logits (batch, 10)."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, *, after: bool = False) -> None:
        super().__init__()
        unit = _unit(activation, after)
        self.stem = nn.Sequential(unit(1, 8, 3), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Block(unit, 8, 8), Block(unit, 32, 8, halve=True), Block(unit, 48, 12))
        self.classifier = nn.Linear(48, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.blocks(self.stem(image)).mean((2, 3)))
        return logits
