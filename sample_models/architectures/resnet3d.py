"""A residual network over space and time, small (Tran et al., "A Closer Look", 2018: R3D)."""

from __future__ import annotations

import torch
from torch import nn


def _conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int | tuple[int, int, int] = 1
) -> nn.Sequential:
    conv = nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(outputs))


class Block(nn.Module):
    """Two 3 x 3 x 3 convolutions and a shortcut, a 1 x 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv_norm(inputs, outputs, 3, stride), nn.ReLU(), _conv_norm(outputs, outputs, 3)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


class ResNet3D(nn.Module):
    """Input: (batch, 3, 8, 24, 24): colours, frames, rows, columns. Output: logits (batch, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_norm(3, 8, 3, (1, 2, 2)), nn.ReLU())
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1))
        self.classifier = nn.Linear(16, 5)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.blocks(self.stem(clip)).mean((2, 3, 4)))
        return logits
