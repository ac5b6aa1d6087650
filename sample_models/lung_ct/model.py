"""A small 3-D network: one number per chest CT."""

from __future__ import annotations

import torch
from torch import nn


class LungNet(nn.Module):
    """Four convolutions, each with BatchNorm and ReLU, the mean over space, a linear layer.

    Input: (batch, 1, 16, 32, 32), a crop of 16 slices, normalised to mean 0 and standard deviation 1.
    Output: (batch, 1), emphysema in percent of the lung.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width, stride in ((8, 1), (16, 2), (32, 2), (32, 2)):
            layers += [nn.Conv3d(channels, width, 3, stride, 1), nn.BatchNorm3d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        percent: torch.Tensor = self.head(self.features(volume).mean((2, 3, 4)))
        return percent


def lung_net() -> nn.Module:
    """The network of the checkpoints."""
    return LungNet()
