"""RepVGG, small, as it is trained (Ding et al., 2021).

Beside each 3 x 3 convolution stand a 1 x 1 convolution and, where the shape allows, nothing but a BatchNorm.
The three are one 3 x 3 convolution, once the statistics are frozen.
"""

from __future__ import annotations

import torch
from layers import conv_norm
from torch import nn


class Block(nn.Module):
    """The sum of up to three branches, and a ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.dense = conv_norm(inputs, outputs, 3, stride, groups)
        self.pointwise = conv_norm(inputs, outputs, 1, stride, groups)
        self.identity = nn.BatchNorm2d(inputs) if stride == 1 and inputs == outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.dense(x) + self.pointwise(x)
        return torch.relu(y if self.identity is None else y + self.identity(x))


class RepVGG(nn.Module):
    """Input: (batch, 1, 28, 28). Output: logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Block(1, 8, 1), Block(8, 16, 2), Block(16, 16, 1, groups=2), Block(16, 24, 2), Block(24, 24, 1)
        )
        self.classifier = nn.Linear(24, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.blocks(image).mean((2, 3)))
        return logits
