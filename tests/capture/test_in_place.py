"""A write in place is removed exactly, or refused: never a value that the module does not compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bnfold.capture import capture
from bnfold.errors import CaptureError

from .networks import Net, frames, require_exact


def residual(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.relu(net.layers(x))
    y += x
    return net.relu(y)


def on_pieces(net: Net, x: torch.Tensor) -> torch.Tensor:
    a, b = net.layers(x).chunk(2, 1)
    a.relu_()
    return torch.cat([b.sigmoid_(), a], 1)


def cut_after_the_write(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.layers(x)
    y.relu_()
    part = y[:, :2]
    part.add_(1)
    return part


def another_look(net: Net, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = net.layers(x).mean((2, 3), keepdim=True)
    before = y * 2
    y.squeeze_(-1).squeeze_(-1)
    return y, before


def into_a_new_tensor(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y.copy_(net.layers(x))
    y[y < 0] = 0.25
    return y


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: torch.relu_(net.conv(x)),
        lambda net, x: net.relu(net.layers(x)),
        residual,
        on_pieces,
        cut_after_the_write,
        another_look,
        into_a_new_tensor,
        lambda net, x: (lambda h: net.relu(net.drop(h)) + h)(net.layers(x)),
        lambda net, x: (lambda h: net.relu(h.detach()) + h)(net.layers(x)),
        lambda net, x: (lambda h: net.relu(h.contiguous()) + h)(net.layers(x)),
        lambda net, x: (lambda h: net.relu(h.float()) + h)(net.layers(x)),
        lambda net, x: (lambda h: net.relu(h.clone()) + h)(net.layers(x)),
        lambda net, x: (x.add_(1), net.layers(x)),
        lambda net, x: F.leaky_relu_(F.hardtanh_(net.layers(x)), 0.1),
    ],
)
def test_exact(forward: Callable[..., Any]) -> None:
    require_exact(Net(forward), frames(), call=(frames(seed=2),))


def one_input_in_two_copies(net: Net, x: torch.Tensor) -> torch.Tensor:
    a, b = torch.meshgrid(x[0, 0, 0], x[0, 0, 1], indexing="ij")
    c = x.type_as(a).view(-1)
    x.relu_()
    return a + b + c[0]


def copied_or_not(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h.flatten(2)[..., 0] = 1  # whether flatten makes a copy is the memory's affair
    return h


def along_a_diagonal(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h.diagonal(0, 2, 3).fill_(1)
    return h


@pytest.mark.parametrize("forward", [copied_or_not, along_a_diagonal, one_input_in_two_copies])
def test_refused(forward: Callable[..., Any]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Net(forward), (frames(),))
    assert caught.value.code == "BNF-C006"
    assert "networks.py:" in caught.value.where
    assert "inplace=False" in caught.value.fix


def test_no_functional_form() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Net(lambda net, x: torch.add(net.layers(x), 1, out=torch.empty(2, 4, 6, 6))), (frames(),))
    assert caught.value.code == "BNF-C007"


@pytest.mark.parametrize(
    ("forward", "dtype"),
    [
        (lambda net, x: net.layers(x).add_(torch.linspace(0, 1, 6)), torch.float16),
        (lambda net, x: net.layers(x).mul_(torch.linspace(0, 1, 6, dtype=torch.float64)), torch.float32),
        (lambda net, x: net.layers(x).gt_(0.1), torch.float32),
    ],
)
def test_the_target_keeps_its_dtype(forward: Callable[..., Any], dtype: torch.dtype) -> None:
    module = Net(forward).to(dtype)
    require_exact(module, frames().to(dtype))
    captured = capture(module, (frames().to(dtype),))
    assert captured.outputs[0].dtype == str(dtype).removeprefix("torch.")
    assert captured.twin()(frames().double())[0].dtype == torch.float64


def test_a_view_after_a_dropped_copy() -> None:
    """The channel shuffle of ShuffleNet: without its copy the memory has an order in which no view exists."""

    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        y = net.layers(x).view(-1, 2, 2, 6, 6).transpose(1, 2).contiguous()
        return net.conv(y.view(-1, 4, 6, 6))

    require_exact(Net(forward), frames())
