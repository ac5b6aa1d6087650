"""ConvMixer, small (Trockman and Kolter, "Patches Are All You Need?", 2022).

BatchNorm comes after GELU, which lets nothing through: the layers behind have to take it. One of them is
zero-padded, and the residual connection reads the same value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Mixer(nn.Module):
    """A depthwise convolution over space, added to its input; a 1 x 1 convolution over the channels."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, kernel, groups=channels, padding="same")
        self.norm1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.norm1(F.gelu(self.spatial(x)))
        y: torch.Tensor = self.norm2(F.gelu(self.pointwise(x)))
        return y


class ConvMixer(nn.Module):
    """Input: (batch, 3, 32, 32). Output: logits (batch, 10)."""

    def __init__(self, width: int = 16, depth: int = 3, kernel: int = 5, patch: int = 4) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*[Mixer(width, kernel) for _ in range(depth)])
        self.classifier = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.norm(F.gelu(self.embed(image))))
        logits: torch.Tensor = self.classifier(x.mean((2, 3)))
        return logits
