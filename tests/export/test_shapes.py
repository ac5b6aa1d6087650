"""Reshapes and permutations in a row: how many are left, and that the values and their order are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bnfold.export import shapes
from bnfold.export.source import private_copy, propagate
from tests.export.bodies import Net, body_of, draw

aten = torch.ops.aten
SHAPING = {
    aten.reshape.default, aten.flatten.using_ints, aten.permute.default, aten.transpose.int,
    aten.unsqueeze.default, aten.squeeze.dim, aten.unflatten.int,
}  # fmt: skip


def left(function: Callable[[torch.Tensor], Any], *shape: int, dynamic: bool = False) -> list[Any]:
    """The operators of that kind after :func:`shapes.shorten`, which must keep every value."""
    body = body_of(Net(lambda _, x: function(x)), draw(*shape), dynamic_batch=dynamic)
    module = private_copy(*body.arguments)
    if not dynamic:
        propagate(module, body.example)
    shapes.shorten(module)
    with torch.no_grad():
        results = module(*body.example)
    for actual, expected in zip(results, body.expected.values(), strict=True):
        assert actual.shape == expected.shape
        assert (actual.numpy() == expected).all()
    return [node.target for node in module.graph.nodes if node.target in SHAPING]


RESHAPES = {
    "there and back": (lambda x: (x * 2).flatten(0, 1).reshape(2, 3, 4) + 1, []),
    "there and elsewhere": (lambda x: (x * 2).flatten(0, 1).reshape(3, 2, 4) + 1, [aten.reshape.default]),
    "three in a row": (
        lambda x: (x * 2).flatten().unsqueeze(0).reshape(4, 6).sin(), [aten.reshape.default],
    ),
    "to its own shape": (lambda x: (x * 2).reshape(2, 3, 4) + 1, []),
    "transposed twice": (lambda x: (x * 2).transpose(1, 2).transpose(2, 1) + 1, []),
    "two that are one": (lambda x: (x * 2).transpose(0, 1).transpose(1, 2).cos(), [aten.permute.default]),
    "permuted three times": (lambda x: (x * 2).permute(1, 2, 0).permute(1, 2, 0).permute(1, 2, 0) + 1, []),
    "not in a row": (
        lambda x: (x * 2).transpose(1, 2).reshape(8, 3).t().reshape(3, 2, 4) + 1,
        [aten.transpose.int, aten.reshape.default, aten.reshape.default],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RESHAPES)
def test_in_a_row(name: str) -> None:
    function, expected = RESHAPES[name]
    found = left(function, 2, 3, 4)
    assert [target for target in found if target is not aten.t.default] == expected


def test_equal_sizes_do_not_hide_an_order() -> None:
    assert left(lambda x: (x * 2).permute(1, 2, 0).permute(1, 0, 2) + 1, 3, 3, 3) == [aten.permute.default]


def test_another_reader_keeps_the_first() -> None:
    def run(x: torch.Tensor) -> Any:
        flat = (x * 2).flatten(0, 1)
        return flat.reshape(2, 3, 4) + 1, flat @ torch.ones(4, 2)

    assert left(run, 2, 3, 4) == [aten.flatten.using_ints]


def test_an_output_is_computed() -> None:
    assert left(lambda x: x.flatten(0, 1).reshape(2, 3, 4), 2, 3, 4) == [aten.reshape.default]


def test_a_symbolic_axis_is_left_alone() -> None:
    found = left(lambda x: (x * 2).flatten(0, 1).unflatten(0, (-1, 3)) + 1, 2, 3, 4, dynamic=True)
    assert len(found) == 2


def test_the_body_is_untouched() -> None:
    body = body_of(nn.Sequential(nn.Linear(4, 5), nn.Flatten(0, 1), nn.Unflatten(0, (2, 3))), draw(2, 3, 4))
    code = body.body.code
    module = private_copy(*body.arguments)
    propagate(module, body.example)
    assert shapes.shorten(module) == 1
    assert body.body.code == code
