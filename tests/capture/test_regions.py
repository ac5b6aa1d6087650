"""Regions that torch.export wraps are put back in their place, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from bnfold.capture import capture
from bnfold.errors import CaptureError

from .networks import Net, frames, require_exact


def grad(net: Net, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        y = net.layers(x)
        z = y * 3
        with torch.no_grad():
            y.relu_()
    return y - 1, z


def autocast_off(net: Net, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False), torch.enable_grad():
        y = net.layers(x)
    return y * 1.5


def recomputed(net: Net, x: torch.Tensor) -> Any:
    with torch.enable_grad():
        return checkpoint(net.layers, x, use_reentrant=False)


@pytest.mark.parametrize("forward", [grad, autocast_off, recomputed])
def test_inlined(forward: Callable[..., Any]) -> None:
    require_exact(Net(forward), frames(), call=(frames(seed=2),))
    graph = capture(Net(forward), (frames(),)).body.graph
    conv = next(node for node in graph.nodes if "conv2d" in str(node.target))
    assert conv.meta["layer"] == "conv"


def autocast_on(net: Net, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net.layers(x)
    return y.float()


def cond(net: Net, x: torch.Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda x: net.conv(x), lambda x: x + 1, (x,))


def while_loop(net: Net, x: torch.Tensor) -> Any:
    from torch._higher_order_ops.while_loop import while_loop as loop

    return loop(lambda x: x.sum() < 1000, lambda x: (x.abs() * 2 + 1,), (x,))[0]


@pytest.mark.parametrize(
    ("forward", "code"), [(autocast_on, "BNF-C008"), (cond, "BNF-C001"), (while_loop, "BNF-C001")]
)
def test_refused(forward: Callable[..., Any], code: str) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Net(forward), (frames(),))
    assert caught.value.code == code
    assert "networks.py:" in caught.value.where
    assert caught.value.fix
