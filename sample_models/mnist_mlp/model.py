"""The network of the experiment that introduced BatchNorm (Ioffe and Szegedy, 2015, section 4.1)."""

from __future__ import annotations

import torch
from torch import nn


class SigmoidMLP(nn.Module):
    """28 x 28 pixels, three hidden layers of 100 with sigmoid, 10 classes.

    Args:
        norm: where each hidden layer's BatchNorm is: ``"after"`` the sigmoid, ``"before"`` it, or None.

    Input: (batch, 1, 28, 28), pixels from 0 to 1. Output: logits (batch, 10).
    """

    def __init__(self, norm: str | None) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = 28 * 28
        for _ in range(3):
            layers.append(nn.Linear(width, 100))
            if norm == "before":
                layers.append(nn.BatchNorm1d(100))
            layers.append(nn.Sigmoid())
            if norm == "after":
                layers.append(nn.BatchNorm1d(100))
            width = 100
        self.hidden = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # "initialized to small random Gaussian values"
                nn.init.normal_(module.weight, std=0.1)
                nn.init.zeros_(module.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.hidden(image))
        return logits


def plain() -> nn.Module:
    """Without BatchNorm."""
    return SigmoidMLP(None)


def after() -> nn.Module:
    """BatchNorm after each sigmoid: it can fold only forward, into the next linear layer."""
    return SigmoidMLP("after")


def before() -> nn.Module:
    """BatchNorm before each sigmoid, as in the paper."""
    return SigmoidMLP("before")
