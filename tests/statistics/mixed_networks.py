"""Networks for the tests of recalibration, and what their statistics should come to, computed plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Functional(nn.Module):
    """A batch norm without a module."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.mean, self.variance, eps=1e-3)


class Mixed(nn.Module):
    """Convolutions, dropout before a BatchNorm, branches, a functional call and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.left = nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
        self.right = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5, affine=False))
        self.plain = Functional(5)
        self.head = nn.Linear(5, 3)
        self.last = nn.BatchNorm1d(3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = self.left(x) + self.right(x)[..., 1:-1, 1:-1]
        x = self.plain(functional.relu(x)).mean((2, 3))
        return self.last(self.head(x))


MIXED = ["stem.1", "left.1", "right.1", "plain.mean", "last"]


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics that are nothing special, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)
            if name.endswith(("var", "variance")):
                tensor.abs_().add_(0.3)
            if name.endswith("num_batches_tracked"):
                tensor.fill_(500)
    return module.eval()


def frames(*sizes: int, channels: int = 2, size: int = 9, seed: int = 1) -> list[Tensor]:
    """Batches of unequal frames: each frame has an offset of its own, so batches differ."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n, channels, size, size, generator=generator)
        + 2 * torch.randn(n, channels, 1, 1, generator=generator)
        for n in sizes
    ]


def statistics_of(inputs: Iterable[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Population mean, and variance by n - 1, in extended precision."""
    rows = np.concatenate([x.movedim(1, -1).reshape(-1, x.shape[1]).double().numpy() for x in inputs])
    rows = rows.astype(np.longdouble)
    mean = rows.mean(axis=0)
    return mean.astype(float), (((rows - mean) ** 2).sum(axis=0) / (len(rows) - 1)).astype(float)


def seen(run: Callable[[], object], *layers: nn.Module) -> list[list[Tensor]]:
    """The inputs of layers while something runs."""
    inputs: list[list[Tensor]] = [[] for _ in layers]
    handles = [
        layer.register_forward_pre_hook(lambda module, args, into=into: into.append(args[0].clone()))
        for layer, into in zip(layers, inputs, strict=True)
    ]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return inputs
