"""U-Net with transposed convolutions, small (Ronneberger, Fischer and Brox, 2015; with BatchNorm)."""

from __future__ import annotations

import torch
from layers import conv_norm
from torch import nn


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(inputs, outputs, 3, act=nn.ReLU()), conv_norm(outputs, outputs, 3, act=nn.ReLU())
    )


class Up(nn.Module):
    """A transposed convolution doubles the size; the features of the way down are joined on."""

    def __init__(self, inputs: int, outputs: int, groups: int = 1) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 2, 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )
        self.convs = _double(2 * outputs, outputs)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.convs(torch.cat([skip, self.up(x)], 1))
        return y


class UNet(nn.Module):
    """Input: (batch, 3, 32, 32). Output: one logit per class and pixel (batch, 4, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_double(3, 8), _double(8, 16), _double(16, 24)])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList([Up(24, 16, groups=2), Up(16, 8)])
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, skips = image, []
        for i, level in enumerate(self.down):
            x = level(self.pool(x) if i else x)
            skips.append(x)
        for level, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = level(x, skip)
        masks: torch.Tensor = self.head(x)
        return masks
