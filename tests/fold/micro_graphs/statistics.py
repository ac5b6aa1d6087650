"""Statistics and types at the edge of what can be frozen."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.fold.micro_graphs.micro import Sizes
from tests.fold.networks import Net


def pair(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.Conv2d(s.c, s.k, 3), nn.BatchNorm2d(s.k))


class Standardised(nn.Conv2d):
    """A subclass with a forward of its own: its weight is standardised (Qiao et al., 2019)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def subclassed(s: Sizes) -> nn.Module:
    return nn.Sequential(Standardised(s.c, s.k, 3), nn.BatchNorm2d(s.k))


def batch_statistics(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.Conv2d(s.c, s.k, 3), nn.BatchNorm2d(s.k, track_running_stats=False))


def training_mode(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: F.batch_norm(m.conv(x), None, None, m.norm.weight, m.norm.bias, training=True),
        conv=nn.Conv2d(s.c, s.k, 3), norm=nn.BatchNorm2d(s.k),
    )  # fmt: skip


def mixed(s: Sizes) -> nn.Module:
    """A half-precision conv, and a BatchNorm that was left in float32."""
    return nn.Sequential(nn.Conv2d(s.c, s.k, 3), nn.BatchNorm2d(s.k, eps=1e-8))


def tiny_in_half(module: nn.Module) -> None:
    """Variance and eps that are both 0 in half precision: folding there gives NaN."""
    norm = module.get_submodule("1").float()
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_var.fill_(2e-8)
        norm.weight.mul_(1e-4)


def with_value(buffer: str, value: float) -> Callable[[nn.Module], None]:
    def prepare(module: nn.Module) -> None:
        with torch.no_grad():
            getattr(module.get_submodule("1"), buffer)[1] = value

    return prepare
