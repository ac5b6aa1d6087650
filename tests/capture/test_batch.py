"""A symbolic batch: forward does the same for every size from 1 up, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bnfold.capture import capture
from bnfold.errors import CaptureError

from .networks import Net, frames, require_exact


def not_for_one(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.layers(x).squeeze()
    return y.unsqueeze(0) if y.dim() == 3 else y


@pytest.mark.parametrize("example", [1, 2, 5])
@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.layers(x) * 2 if x.shape[0] == 1 else net.layers(x),
        lambda net, x: net.layers(x) * 2 if len(x) == 1 else net.layers(x),
        lambda net, x: net.layers(x) * 2 if x.shape == (1, 4, 6, 6) else net.layers(x),
        lambda net, x: net.layers(x) * 2 if x.size(0) in (1, 3) else net.layers(x),
        lambda net, x: net.layers(x) * 2 if x.shape[0] > 4 else net.layers(x),
        lambda net, x: net.layers(x) * 2 if x.shape[0] != 7 else net.layers(x),
        lambda net, x: net.layers(x) * 2 if x.shape[0] % 2 else net.layers(x),
        lambda net, x: net.layers(x)[:4] * 2,
        not_for_one,
    ],
)
def test_a_decision_by_the_batch_is_refused(forward: Callable[..., Any], example: int) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Net(forward), (frames(example),), dynamic_batch=True)
    assert caught.value.code == "BNF-C002"
    assert ".py:" in caught.value.where
    assert "without a dynamic batch" in caught.value.fix


@pytest.mark.parametrize("example", [1, 2])
def test_a_batch_that_is_written_into_forward_is_refused(example: int) -> None:
    """A single frame is captured with a second one: that forward fails on these is not the user's input."""
    with pytest.raises(CaptureError) as caught:
        capture(Net(lambda net, x: x.reshape(example, 144) * 2), (frames(example),), dynamic_batch=True)
    assert caught.value.code == "BNF-C002"
    assert caught.value.what.startswith("the model fixes the size of its batch")
    assert ".py:" in caught.value.where
    with pytest.raises(CaptureError) as caught:  # but that it fails on any is
        capture(Net(lambda net, x: net.layers(x).reshape(7, 11)), (frames(example),), dynamic_batch=True)
    assert caught.value.code == "BNF-C004"


def test_the_line_that_decides_is_named() -> None:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 1:
            return net.layers(x) * 2
        return net.layers(x)

    with pytest.raises(CaptureError) as caught:
        capture(Net(forward), (frames(),), dynamic_batch=True)
    assert "test_batch.py:" in caught.value.where
    assert "`if x.shape[0] == 1:`" in caught.value.where


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.layers(x).mean((2, 3)).view(x.size(0), -1),
        lambda net, x: net.layers(x).squeeze(),
        lambda net, x: net.layers(x) / x.shape[0] + max(x.shape[0], 4),
        lambda net, x: net.layers(x) if x.shape[0] > 0 else x,
        lambda net, x: net.layers(x) * 2 if x.shape[1] == 4 else x,
        lambda net, x: F.scaled_dot_product_attention(net.layers(x), x, x),
        lambda net, x: F.group_norm(F.interpolate(net.layers(x), scale_factor=2.0), 2),
        lambda net, x: torch.cat([net.bn.bias.expand(x.shape[0], -1), x.mean((2, 3))], 1),
    ],
)
def test_no_decision_by_the_batch(forward: Callable[..., Any], size: int) -> None:
    require_exact(Net(forward), frames(1), dynamic_batch=True, call=(frames(size),))


@pytest.mark.parametrize("size", [1, 3])
def test_any_number_of_inputs(size: int) -> None:
    module = Net(lambda net, *xs: net.layers(xs[0]) - xs[1])
    call = (frames(size), frames(size, seed=3))
    require_exact(module, frames(), frames(seed=2), dynamic_batch=True, call=call)


@pytest.mark.parametrize(
    ("forward", "dynamic"),
    [(lambda net, x: (net.layers(x), x.shape[0]), True), (lambda net, x: (x, x.sum().item()), False)],
)
def test_a_computed_number_among_the_outputs_is_refused(forward: Callable[..., Any], dynamic: bool) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Net(forward), (frames(),), dynamic_batch=dynamic)
    assert caught.value.code == "BNF-C010"
    assert "'1'" in caught.value.what
