"""Random numbers in eval mode are named as such, and operators that could draw but do not are left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, library, nn

import bnfold
from bnfold.capture import capture
from bnfold.verify import compare, randomness
from bnfold.verify.candidates import original
from tests.verify.networks import SHAPE, built, frames

EXAMPLE = (torch.zeros(SHAPE),)


@library.custom_op("bnfold_tests::unsteady", mutates_args=())
def unsteady(x: Tensor) -> Tensor:
    """Another result at every call, and no tag that says so; too little for the capture's own replay."""
    return x + 1e-3 * torch.rand(1)


@unsteady.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Does(nn.Module):
    """A BatchNorm, then ``last``."""

    def __init__(self, last: Callable[[Tensor], Any], *layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.layers = nn.ModuleList(layers)
        self.last = last

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.conv(x))
        for layer in self.layers:
            y = layer(y)
        return self.last(y)


@pytest.mark.parametrize(
    ("last", "operator"),
    [
        (lambda y: y + torch.rand(1), "rand"),
        (lambda y: y + torch.randn_like(y).mean(), "randn_like"),
        (lambda y: F.dropout(y, 0.5, training=True), "dropout"),
        (lambda y: y + torch.bernoulli(torch.full((1,), 0.001)), "bernoulli"),
        (lambda y: F.scaled_dot_product_attention(y, y, y, dropout_p=0.5), "scaled_dot_product_attention"),
    ],
)
def test_an_operator_that_draws_is_named_and_nothing_is_written(
    last: Callable[[Tensor], Any], operator: str, tmp_path: Path
) -> None:
    module = Does(last).eval()
    result = bnfold.convert(module, EXAMPLE, output=tmp_path / "out", samples=frames())
    assert (result.passed, result.exit_status, result.artifacts) == (False, 1, [])
    assert [(f.code, f.severity, f.where) for f in result.findings] == [("BNF-V006", "error", operator)]
    assert f"{operator} draws random numbers" in result.findings[0].message
    assert "test_randomness.py:" in result.findings[0].message
    assert not (tmp_path / "out").exists()


def test_only_the_outputs_that_it_reaches_are_random() -> None:
    module = Does(lambda y: {"noisy": (y + torch.rand(1)).mean((2, 3)), "clean": y.mean((2, 3))}).eval()
    assert [(name, node.name) for name, node in randomness.drawing(capture(module, EXAMPLE)).items()] == [
        ("noisy", "rand")
    ]
    rows = bnfold.verify(module, bnfold.fold(module, EXAMPLE), frames())
    assert [(row.output, row.passed) for row in rows] == [("noisy", False), ("clean", True)]


def test_what_carries_no_tag_is_seen_in_two_runs(tmp_path: Path) -> None:
    module = Does(unsteady).eval()
    comparison = compare(module, bnfold.fold(module, EXAMPLE), frames())
    assert not comparison.passed
    assert [row.passed for row in comparison.parity] == [False]
    assert [(f.code, f.where) for f in comparison.findings] == [("BNF-V006", "output")]
    assert 0 < comparison.findings[0].evidence["distance"] < 1
    assert "two runs on the same inputs" in comparison.findings[0].message


@pytest.mark.parametrize(
    "module",
    [
        Does(lambda y: F.dropout(y, 0.5, training=False), nn.Dropout(0.5), nn.AlphaDropout(0.5)),
        Does(lambda y: F.rrelu(y, training=False)),
        Does(lambda y: F.scaled_dot_product_attention(y, y, y)),
        Does(lambda y: y[0], nn.Flatten(2), nn.LSTM(36, 3, 2, dropout=0.5)),
        Does(lambda y: y[0], nn.Flatten(2), nn.GRU(36, 3, 2, dropout=0.5)),
        Does(lambda y: y + 0 * torch.empty(1).fill_(2)),
    ],
    ids=["dropout", "rrelu", "attention", "lstm", "gru", "empty"],
)
def test_operators_that_do_not_draw_in_eval_mode_are_not_accused(module: nn.Module) -> None:
    module = built(lambda: module)  # type: ignore[arg-type]
    captured = capture(module, EXAMPLE)
    assert randomness.findings(captured) == []
    network, inputs = original(captured), {"x": frames(1)}
    assert randomness.differing(network.run(inputs), network.run(inputs)) == {}
