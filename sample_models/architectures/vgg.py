"""VGG with BatchNorm, small (Simonyan and Zisserman, 2014; the -BN form is torchvision's).

Plain 3 x 3 convolutions with a bias, each with a BatchNorm before its ReLU; max pooling halves the size.
"""

from __future__ import annotations

import torch
from torch import nn

_WIDTHS: tuple[int | None, ...] = (8, 8, None, 16, 16, None, 24, 24, None)  # None: max pooling


class VGG(nn.Module):
    """Input: (batch, 1, 28, 28). Output: logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in _WIDTHS:
            if width is None:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * 3 * 3, 64),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(64, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(image))
        return logits
