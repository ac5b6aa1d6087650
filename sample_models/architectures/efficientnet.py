"""EfficientNet, small: MBConv blocks with SiLU and squeeze-and-excitation (Tan and Le, 2019)."""

from __future__ import annotations

import torch
from layers import conv_norm
from torch import nn

# expansion, output channels, kernel, stride
_BLOCKS = ((1, 8, 3, 1), (4, 12, 3, 2), (4, 12, 3, 1), (4, 20, 5, 2), (4, 20, 5, 1))


class SqueezeExcite(nn.Module):
    """Multiplies each channel by a number between 0 and 1 that depends on the means of all of them."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * gate


class MBConv(nn.Module):
    """Expand, depthwise, squeeze-and-excitation, project; added to the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        expand = [] if expansion == 1 else [conv_norm(inputs, width, 1, act=nn.SiLU())]
        self.layers = nn.Sequential(
            *expand,
            conv_norm(width, width, kernel, stride, groups=width, act=nn.SiLU()),
            SqueezeExcite(width, max(2, inputs // 4)),
            conv_norm(width, outputs, 1),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.residual else y


class EfficientNet(nn.Module):
    """Input: (batch, 1, 28, 28). Output: logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        channels = 8
        parts: list[nn.Module] = [conv_norm(1, channels, 3, 2, act=nn.SiLU())]
        for expansion, outputs, kernel, stride in _BLOCKS:
            parts.append(MBConv(channels, outputs, kernel, stride, expansion))
            channels = outputs
        self.features = nn.Sequential(*parts, conv_norm(channels, 64, 1, act=nn.SiLU()))
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(image).mean((2, 3)))
        return logits
