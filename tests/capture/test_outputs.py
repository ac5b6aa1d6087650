"""Answers in memory of their own: who writes to one changes no other, no input and no weight."""

from __future__ import annotations

import torch
from torch import nn

from bnfold import fold

from .networks import Net, frames


def test_a_copy_among_the_outputs_stays_one() -> None:
    module = fold(Net(lambda net, x: (lambda y: (y, y.clone(), y * 1))(net.layers(x))), (frames(),)).module
    first, second, _ = module(frames())
    expected = second.clone()
    first.zero_()
    assert torch.equal(second, expected)


def test_a_returned_copy_of_a_weight_is_one() -> None:
    module = fold(Net(lambda net, x: (net.layers(x), net.conv.bias.clone())), (frames(),)).module
    expected = module(frames())[1].clone()
    module(frames())[1].add_(1)
    assert torch.equal(module(frames())[1], expected)


def test_an_input_is_not_handed_back() -> None:
    x = frames()
    for module in (
        nn.BatchNorm2d(4, eps=0.0).eval(),
        nn.Sequential(nn.BatchNorm2d(4, eps=0.0), nn.Flatten()),
    ):
        answer = fold(module.eval(), (x,)).module(x)
        answer.zero_()
        assert torch.equal(x, frames())


def test_what_shared_memory_still_may() -> None:
    """No copy is made where the original made none."""
    module = fold(Net(lambda net, x: (lambda y: (y, y, y.flatten(1), x))(net.layers(x))), (frames(),)).module
    assert not any("clone" in str(node.target) for node in module.body.graph.nodes)
    parts = fold(Net(lambda net, x: net.layers(x).chunk(2, 1)), (frames(),)).module
    assert not any("clone" in str(node.target) for node in parts.body.graph.nodes)
