"""A residual network, small (He, Zhang, Ren and Sun, 2015)."""

from __future__ import annotations

import torch
from layers import conv_norm
from torch import nn


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, a 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_norm(inputs, outputs, 3, stride, act=nn.ReLU(inplace=True)), conv_norm(outputs, outputs, 3)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Input: (batch, 1, 28, 28). Output: logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(1, 8, 3, act=nn.ReLU())
        self.blocks = nn.Sequential(
            Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1), Block(16, 24, 2), Block(24, 24, 1)
        )
        self.classifier = nn.Linear(24, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.blocks(self.stem(image)).mean((2, 3)))
        return logits
