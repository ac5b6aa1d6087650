"""A small network whose statistics are right, and the frames that they describe."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Two convolutions with BatchNorm and a linear layer with one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 5, 3)
        self.bn2 = nn.BatchNorm2d(5)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(5, 8)
        self.bn3 = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.dropout(x.mean((2, 3)))
        y: Tensor = self.head(torch.relu(self.bn3(self.linear(x))))
        return y


def frames(count: int, seed: int = 0) -> Tensor:
    """Of shape (count, 2, 9, 9): noise over a level of each frame's own, so that frames differ."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(count, 2, 1, 1, generator=generator)
    return 0.5 + level + torch.randn(count, 2, 9, 9, generator=generator)


def fit(module: nn.Module, data: Tensor) -> None:
    """Make every BatchNorm's statistics those of the data, as one batch in train mode."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        module(data)
    for part, mode in modes:
        part.training = mode
    for norm in norms:
        norm.momentum = 0.1
        norm.num_batches_tracked.fill_(5000)


def sound(seed: int = 0) -> Small:
    """`Small` with random weights, gammas of both signs, and statistics of 2,000 frames."""
    torch.manual_seed(seed)
    module = Small().eval()
    for norm in (module.bn1, module.bn2, module.bn3):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.5)
    fit(module, frames(2000, seed=99))
    return module
