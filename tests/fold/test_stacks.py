"""Stacks, and what else is a concatenation: folded through, and left as they were otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bnfold import graph as g
from bnfold.fold import FoldResult, fold
from tests.fold.networks import Net, draw_statistics, folded

Run = Callable[[Any, torch.Tensor], torch.Tensor]
DISTINCT, EQUAL = (2, 3, 7, 8), (4, 4, 6, 6)


def network(channels: int, norm: nn.Module, run: Run, *, inputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    convs = (nn.Conv2d(inputs, channels, 3), nn.Conv2d(inputs, channels, 3, bias=False))
    return draw_statistics(Net(run, a=convs[0], b=convs[1], norm=norm), 5)


def operators(result: FoldResult) -> list[str]:
    return [g.operator_name(node) for node in result.module.body.graph.nodes if node.op == "call_function"]


def stacked(dim: int) -> Run:
    return lambda m, x: torch.tanh(m.norm(torch.stack([m.a(x), m.b(x)], dim)))


@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize(("dim", "channels"), [(1, 2), (2, 5), (-1, 5), (3, 5)])
def test_a_stack(dim: int, channels: int, dynamic_batch: bool) -> None:
    """Along the BatchNorm's axis each part is a channel; along another, a part has all channels."""
    module = network(5, nn.BatchNorm3d(channels), stacked(dim))
    result = folded(module, DISTINCT, dynamic_batch=dynamic_batch)
    assert [entry.status for entry in result.report.batch_norms] == ["folded"]
    assert operators(result) == ["conv2d", "conv2d", "stack", "tanh"]


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_a_stack_of_equal_sizes(dim: int) -> None:
    module = network(2, nn.BatchNorm3d(2), stacked(dim), inputs=4)
    result = folded(module, (2, 4, 4, 4))
    assert [entry.status for entry in result.report.batch_norms] == ["folded"]
    assert operators(result) == ["conv2d", "conv2d", "stack", "tanh"]


@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize("shape", [DISTINCT, EQUAL])
def test_a_stack_that_is_flattened_is_a_concatenation(shape: tuple[int, ...], dynamic_batch: bool) -> None:
    run = lambda m, x: torch.tanh(m.norm(torch.stack([m.a(x), m.b(x)], 1).flatten(1, 2)))  # noqa: E731
    module = network(4, nn.BatchNorm2d(8), run, inputs=shape[1])
    result = folded(module, shape, dynamic_batch=dynamic_batch)
    assert [entry.status for entry in result.report.batch_norms] == ["folded"]
    assert operators(result) == ["conv2d", "conv2d", "cat", "tanh"]


def test_channels_that_alternate_are_no_concatenation() -> None:
    run = lambda m, x: torch.tanh(m.norm(torch.stack([m.a(x), m.b(x)], 2).flatten(1, 2)))  # noqa: E731
    result = folded(network(4, nn.BatchNorm2d(8), run, inputs=4), EQUAL)
    assert [entry.status for entry in result.report.batch_norms] == ["kept"]
    assert "stack" in operators(result)


def test_one_value_that_is_stacked_twice() -> None:
    run = lambda m, x: torch.tanh(m.norm(torch.stack([m.a(x)] * 2, 1)))  # noqa: E731
    result = folded(network(4, nn.BatchNorm3d(2), run), DISTINCT)
    assert [entry.status for entry in result.report.batch_norms] == ["kept"]
    assert operators(result) == ["conv2d", "stack", "mul", "add", "tanh"]


def test_what_cannot_go_into_a_part_waits_before_it() -> None:
    run = lambda m, x: torch.tanh(m.norm(torch.stack([m.a(x), torch.sin(m.b(x))], 2)))  # noqa: E731
    folded(network(4, nn.BatchNorm3d(4), run), DISTINCT)


@pytest.mark.parametrize(
    ("join", "width"), [(torch.hstack, 8), (torch.column_stack, 8), (torch.vstack, 4), (torch.dstack, 4)]
)
def test_joins_by_other_names(join: Callable[[list[torch.Tensor]], torch.Tensor], width: int) -> None:
    run = lambda m, x: torch.tanh(m.norm(join([m.a(x), m.b(x)])))  # noqa: E731
    result = folded(network(4, nn.BatchNorm2d(width), run, inputs=4), EQUAL)
    assert [entry.status for entry in result.report.batch_norms] == ["folded"]


def test_columns_of_vectors_stay() -> None:
    """hstack of two vectors joins axis 0, column_stack makes a matrix of them."""
    run = lambda m, x: m.norm(torch.column_stack([x[:, 0].sin(), x[:, 1].cos()]))  # noqa: E731
    module = draw_statistics(Net(run, norm=nn.BatchNorm1d(2)), 5)
    assert "column_stack" in operators(folded(module, (3, 2)))


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_expanded_like_another(dynamic_batch: bool) -> None:
    run = lambda m, x: torch.tanh(m.norm(m.a(x).mean((2, 3), keepdim=True).expand_as(m.b(x)))) + m.b(x)  # noqa: E731
    result = folded(network(4, nn.BatchNorm2d(4), run), DISTINCT, dynamic_batch=dynamic_batch)
    assert [entry.status for entry in result.report.batch_norms] == ["folded"]


@pytest.mark.parametrize("prune", [False, True])
def test_dead_channels_in_a_stack(prune: bool) -> None:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(m.norm(torch.stack([m.a(x), m.b(x)], 2)))
        return m.last(y)

    module = network(5, nn.BatchNorm3d(5), run)
    module.last = nn.Conv3d(5, 2, 1)
    with torch.no_grad():
        module.norm.weight[2] = 0
    x = torch.randn(DISTINCT)
    result = fold(module, (x,), prune=prune)
    assert not [finding for finding in result.report.findings if finding.code.startswith("BNF-X")]
    torch.testing.assert_close(result.module(x), module(x), rtol=1e-4, atol=1e-5)
    assert "stack" in operators(result)
