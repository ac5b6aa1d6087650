"""MobileOne, small, as it is trained: depthwise and pointwise blocks with copies (Vasu et al., 2022)."""

from __future__ import annotations

import torch
from layers import conv_norm
from torch import nn

_COPIES = 3


class Block(nn.Module):
    """Several equal convolutions side by side, a 1 x 1 beside a depthwise 3 x 3, and a BatchNorm alone."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        branches = [conv_norm(inputs, outputs, kernel, stride, groups) for _ in range(_COPIES)]
        if kernel > 1:
            branches.append(conv_norm(inputs, outputs, 1, stride, groups))
        self.branches = nn.ModuleList(branches)
        self.skip = nn.BatchNorm2d(inputs) if stride == 1 and inputs == outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = 0 if self.skip is None else self.skip(x)
        for branch in self.branches:
            total = total + branch(x)
        return torch.relu(total)


class MobileOne(nn.Module):
    """Input: (batch, 3, 32, 32). Output: logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = [Block(3, 8, 3, 2)]
        channels = 8
        for outputs, stride in ((16, 2), (16, 1), (24, 2)):
            parts += [Block(channels, channels, 3, stride, groups=channels), Block(channels, outputs, 1)]
            channels = outputs
        self.blocks = nn.Sequential(*parts)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.blocks(image).mean((2, 3)))
        return logits
