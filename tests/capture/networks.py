"""What the capture tests share: one small network whose forward is given, and the comparison with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bnfold.capture import capture


class Net(nn.Module):
    """A convolution and a BatchNorm with statistics of their own; ``forward`` is the function given."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.given = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), forward
        self.drop, self.relu = nn.Dropout(0.5), nn.ReLU(inplace=True)
        self.register_buffer("seen", torch.ones(2, 4, 6, 6))
        self.table: Any = torch.ones(2, 4, 6, 6)
        self.cache: Any = None
        self.calls = 0
        self.bn.running_mean = torch.randn(4)
        self.bn.running_var = torch.rand(4) + 0.5
        self.eval()

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """A value in memory of its own."""
        result: torch.Tensor = self.bn(self.conv(x))
        return result

    def forward(self, *args: Any) -> Any:
        return self.given(self, *args)


def frames(count: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 4, 6, 6, generator=torch.Generator().manual_seed(seed))


def require_exact(module: nn.Module, *args: Any, dynamic_batch: bool = False, call: Any = None) -> None:
    """The captured graph's answers are the module's own, bit for bit, on ``call`` or on the example."""
    captured = capture(module, args, dynamic_batch=dynamic_batch)
    call = copy.deepcopy(args if call is None else call)
    with torch.no_grad():
        actual = captured.unflatten(captured.body(*captured.flatten(copy.deepcopy(call))))
        expected = copy.deepcopy(module)(*call)
    leaves, others = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    assert len(leaves) == len(others)
    for a, e in zip(leaves, others, strict=True):
        assert a.dtype == e.dtype
        assert torch.equal(a, e)
