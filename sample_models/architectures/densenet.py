"""A densely connected network, small, with bottlenecks and compression (Huang et al., DenseNet-BC, 2016).

Each layer reads everything before it and adds its own channels. Its first BatchNorm therefore normalises a
concatenation whose parts others normalise too, each in their own way.
"""

from __future__ import annotations

import torch
from torch import nn

GROWTH = 6


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1 x 1 convolution, BatchNorm, ReLU, 3 x 3 convolution; the result is joined on."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * GROWTH, 1, bias=False),
            nn.BatchNorm2d(4 * GROWTH),
            nn.ReLU(),
            nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.layers(x)], 1)


class DenseNet(nn.Module):
    """Input: (batch, 1, 28, 28). Output: logits (batch, 10)."""

    def __init__(self, layers: tuple[int, ...] = (3, 3, 3)) -> None:
        super().__init__()
        channels = 2 * GROWTH
        parts: list[nn.Module] = [nn.Conv2d(1, channels, 3, 2, 1, bias=False)]
        for i, count in enumerate(layers):
            if i > 0:  # transition: half the channels, half the size
                conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
                parts.append(nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), conv, nn.AvgPool2d(2)))
                channels //= 2
            for _ in range(count):
                parts.append(DenseLayer(channels))
                channels += GROWTH
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(image).mean((2, 3)))
        return logits
