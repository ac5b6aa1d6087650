"""Small networks with drawn statistics, and frames for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.fold.networks import draw_statistics

CLASSES = 5
SHAPE = (1, 3, 8, 8)


class Small(nn.Module):
    """Two conv-BatchNorm-relu blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


class SubtractsBatchMean(nn.Module):
    """Batch statistics by hand: with one frame nothing is left of it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x - x.mean(0, keepdim=True))


class Sensor(nn.Module):
    """A time series and a temperature; a dictionary with a nested tuple comes out. No image anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 5, stride=2, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.mix = nn.Linear(8 + 2, 6)
        self.norm2 = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, series: Tensor, ambient: Tensor) -> dict[str, Any]:
        features = torch.relu(self.norm(self.conv(series)))
        mixed = torch.sigmoid(self.norm2(self.mix(torch.cat([features.mean(2), ambient], 1))))
        scores = self.head(mixed)
        return {"scores": scores, "aux": (features, mixed.sum(1, keepdim=True))}


def built(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """The network in eval mode, the same for the same seed."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return draw_statistics(kind(), seed).eval()


def frames(count: int = 20, shape: tuple[int, ...] = SHAPE, seed: int = 3) -> NDArray[np.float32]:
    """Normal model inputs, the first axis counting the frames."""
    return np.random.default_rng(seed).standard_normal((count, *shape[1:])).astype(np.float32)


def answers(module: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """What the network says to each frame on its own."""
    with torch.no_grad():
        return np.array([int(module(torch.tensor(one[None])).argmax()) for one in inputs])
