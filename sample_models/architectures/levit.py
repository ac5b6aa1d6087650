"""LeViT's attention, small (Graham et al., 2021).

BatchNorm in place of LayerNorm, so that it folds: over (batch * length, features) behind each linear layer,
and before the classifier.
"""

from __future__ import annotations

import torch
from layers import conv_norm
from torch import nn


class LinearNorm(nn.Module):
    """A linear layer over (batch, length, features) and a BatchNorm over its features."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        normed: torch.Tensor = self.norm(y.flatten(0, 1)).reshape_as(y)
        return normed


class Attention(nn.Module):
    """Multi-head attention with a learnt bias per distance; keys are narrower than values."""

    def __init__(self, width: int, heads: int, key: int, side: int) -> None:
        super().__init__()
        self.heads, self.key, self.value = heads, key, 2 * key
        self.qkv = LinearNorm(width, heads * (2 * key + self.value))
        self.project = nn.Sequential(nn.Hardswish(), LinearNorm(heads * self.value, width))
        at = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        distance = (at[:, None] - at[None]).abs()
        self.biases = nn.Parameter(torch.randn(heads, side * side) / 4)
        self.register_buffer("index", distance[..., 0] * side + distance[..., 1], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        split = self.qkv(x).view(batch, length, self.heads, -1).split([self.key, self.key, self.value], 3)
        query, key, value = (part.transpose(1, 2) for part in split)
        scores = query @ key.transpose(2, 3) * self.key**-0.5 + self.biases[:, self.index]
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, -1)
        projected: torch.Tensor = self.project(mixed)
        return projected


class LeViT(nn.Module):
    """Input: (batch, 3, 32, 32). Output: logits (batch, 10)."""

    def __init__(self, width: int = 24, heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_norm(3, 8, 3, 2, act=nn.Hardswish()),
            conv_norm(8, 16, 3, 2, act=nn.Hardswish()),
            conv_norm(16, width, 3, 2),
        )
        self.attention = nn.ModuleList([Attention(width, heads, 8, side=4) for _ in range(depth)])
        self.mlp = nn.ModuleList(
            [
                nn.Sequential(LinearNorm(width, 2 * width), nn.Hardswish(), LinearNorm(2 * width, width))
                for _ in range(depth)
            ]
        )
        self.head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image).flatten(2).transpose(1, 2)
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            x = x + attention(x)
            x = x + mlp(x)
        logits: torch.Tensor = self.head(x.mean(1))
        return logits
