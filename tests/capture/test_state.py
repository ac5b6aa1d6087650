"""State that forward keeps: refused where an answer depends on it, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bnfold.capture import capture
from bnfold.errors import CaptureError

from .networks import Net, frames, require_exact


def through_a_view(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.layers(x)
    out = y + net.seen
    net.seen[:, :2] = y[:, :2]
    return out


def attribute(net: Net, x: torch.Tensor) -> torch.Tensor:
    out = net.layers(x) + net.table
    net.table = out
    return out


def lazily(net: Net, x: torch.Tensor) -> torch.Tensor:
    if net.cache is None:
        net.cache = x * 2
    out: torch.Tensor = net.layers(x) + net.cache
    return out


def in_a_list(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.cache = net.cache or []
    net.cache.append(x)
    return net.layers(x) + net.cache[0]


def by_a_number(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.calls += 1
    return net.layers(x) * (2 if net.calls > 1 else 1)


@pytest.mark.parametrize("forward", [through_a_view, attribute, lazily, in_a_list, by_a_number])
def test_refused(forward: Callable[..., Any]) -> None:
    module = Net(forward)
    with pytest.raises(CaptureError) as caught:
        capture(module, (frames(),))
    assert caught.value.code == "BNF-C005"
    assert "networks.py:" in caught.value.where
    assert (torch.equal(module.seen, torch.ones(2, 4, 6, 6)), module.cache, module.calls) == (True, None, 0)
    assert torch.equal(module.table, torch.ones(2, 4, 6, 6))


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + self.last
        self.last = y
        return y


def test_the_line_that_keeps_it_is_named() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Remembers(), (torch.ones(1, 3),))
    assert "`self.last = y`" in caught.value.where
    assert "'last'" in caught.value.what


def unread(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.layers(x)
    net.calls += 1
    net.table = y
    net.seen.mul_(0.9).add_(y * 0.1)
    net.seen[:, :1] = net.seen[:, 1:2] * 2
    return y


def for_the_shape(net: Net, x: torch.Tensor) -> torch.Tensor:
    if net.cache is None:
        net.cache = torch.arange(6.0) * torch.ones(x.shape[2], 1)
    out: torch.Tensor = net.layers(x) * net.cache
    return out


@pytest.mark.parametrize("forward", [unread, for_the_shape])
def test_harmless(forward: Callable[..., Any]) -> None:
    require_exact(Net(forward), frames(), call=(frames(seed=2),))
