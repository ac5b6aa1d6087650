"""A small convolutional network with BatchNorm that says where an obstacle stands in a frame."""

from __future__ import annotations

import torch
from torch import nn

WIDTH, HEIGHT = 64, 48


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


class Locator(nn.Module):
    """Input: (batch, 3, 48, 64), RGB from 0 to 1. Output: (batch, 2), the pixel (column, row)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, 16, 2), *_block(16, 32, 1), *_block(32, 32, 2), *_block(32, 64, 1),
            *_block(64, 64, 2), *_block(64, 64, 1),
        )  # fmt: skip
        self.where = nn.Sequential(
            nn.Conv2d(64, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.head = nn.Sequential(
            nn.Linear(16 * 6 * 8, 64, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(inplace=True),
            nn.Linear(64, 2),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        place: torch.Tensor = self.head(self.where(self.features(image)).flatten(1))
        return place


def locator() -> nn.Module:
    """The network of ``locator.safetensors``."""
    return Locator()
