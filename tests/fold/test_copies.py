"""One layer that is called several times: whether its weight is copied is decided by cost, and told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bnfold.fold import FoldResult
from bnfold.report.conversion import render_batch_norms
from bnfold.report.style import Style
from tests.fold import networks
from tests.fold.micro_graphs.micro import DISTINCT
from tests.fold.micro_graphs.sharing import also_activated, head_per_level, one_call_raw, pair_twice
from tests.fold.networks import Net, draw_statistics

X = torch.randn(DISTINCT.image, generator=torch.Generator().manual_seed(0))
CONV_BYTES = 4 * DISTINCT.k * DISTINCT.c * 9


def folded(module: nn.Module, x: torch.Tensor) -> FoldResult:
    return networks.folded(draw_statistics(module, 3), x)


def copies(result: FoldResult) -> dict[str, list[tuple[str, int]]]:
    return {e.name: [(c.weight, c.bytes) for c in e.copies] for e in result.report.batch_norms}


def weights(result: FoldResult) -> list[torch.Tensor]:
    return [tensor for tensor in result.module.state_dict().values() if tensor.ndim > 1]


def test_a_head_with_a_batch_norm_for_each_level() -> None:
    result = folded(head_per_level(DISTINCT), X)
    assert copies(result) == {
        "a": [],  # its version takes the place of the original, which nobody reads any more
        "b": [("conv.weight", CONV_BYTES)],
        "c": [("conv.weight", CONV_BYTES)],
    }
    assert len(weights(result)) == 3
    assert [entry.to_json()["copies"] for entry in result.report.batch_norms][1] == [
        {"weight": "conv.weight", "bytes": CONV_BYTES}
    ]


def test_a_raw_call_keeps_the_original() -> None:
    result = folded(one_call_raw(DISTINCT), X)
    assert copies(result) == {"norm": [("conv.weight", CONV_BYTES)]}


def test_equal_versions_are_stored_once() -> None:
    result = folded(pair_twice(DISTINCT), X)
    assert copies(result) == {"norm": [], "norm#2": []}
    assert len(weights(result)) == 1


class Calls(nn.Module):
    """One wide linear layer, called for several small inputs, each with a BatchNorm."""

    def __init__(self, norms: int, calls: int) -> None:
        super().__init__()
        self.linear = nn.Linear(600, 600)
        self.norms = nn.ModuleList(nn.BatchNorm1d(600) for _ in range(norms))
        self.calls = calls

    def forward(self, x: torch.Tensor) -> Any:
        norms = [self.norms[i % len(self.norms)] for i in range(self.calls)]
        return tuple(norm(self.linear(torch.sin((i + 1) * x))) for i, norm in enumerate(norms))


def test_a_copy_that_would_cost_more_than_it_saves_is_not_made() -> None:
    result = folded(Calls(2, 2), torch.randn(1, 600))
    assert copies(result) == {"norms.0": [], "norms.1": []}
    assert [entry.status for entry in result.report.batch_norms] == ["kept", "kept"]
    assert len(weights(result)) == 1 + 2 * 2  # with one scale and one shift for each
    for entry in result.report.batch_norms:
        assert entry.reason is not None
        assert "other calls read linear.weight as well" in entry.reason
        assert f"a copy of {4 * 600 * 600:,} bytes would cost more than what is left over" in entry.reason


def test_a_wide_pair_that_is_called_twice_is_folded_once() -> None:
    """One new weight serves all calls, so that nothing is copied, however wide the layer is."""
    result = folded(Calls(1, 3), torch.randn(1, 600))
    assert [entry.status for entry in result.report.batch_norms] == ["folded"] * 3
    assert len(weights(result)) == 1
    assert all(not entry.copies for entry in result.report.batch_norms)


def test_a_wide_layer_behind_one_batch_norm_that_is_called_twice() -> None:
    def run(m: Net, x: torch.Tensor) -> Any:
        return m.linear(m.norm(torch.sigmoid(x))), m.linear(m.norm(torch.tanh(x)))

    module = Net(run, norm=nn.BatchNorm1d(600), linear=nn.Linear(600, 600))
    result = folded(module, torch.randn(1, 600))
    assert [entry.status for entry in result.report.batch_norms] == ["folded"] * 2
    assert len(weights(result)) == 1


def test_a_declined_copy_forward() -> None:
    def run(m: Net, x: torch.Tensor) -> Any:
        return m.linear(m.norm(torch.sigmoid(x))), m.linear(torch.tanh(x))

    module = Net(run, norm=nn.BatchNorm1d(600), linear=nn.Linear(600, 600))
    result = folded(module, torch.randn(1, 600))
    (entry,) = result.report.batch_norms
    assert entry.status == "kept"
    assert "other calls read linear.weight as well" in str(entry.reason)


def test_why_a_value_with_two_readers_is_not_computed_twice() -> None:
    (entry,) = folded(also_activated(DISTINCT), X).report.batch_norms
    assert "the value of conv is also read by relu, and a second conv would cost more" in str(entry.reason)


@pytest.mark.parametrize("gains", [False, True])
def test_the_text_tells_of_it(gains: bool) -> None:
    result = folded(head_per_level(DISTINCT), X)
    entries = [entry.to_json() for entry in result.report.batch_norms]
    text = render_batch_norms(entries, Style(), gains=gains)
    assert "conv.weight is read by several calls: copied for b, c, 1.7 kB more" in " ".join(text.split())
    declined = folded(Calls(2, 2), torch.randn(1, 600))
    entries = [entry.to_json() for entry in declined.report.batch_norms]
    text = render_batch_norms(entries, Style(), gains=gains)
    assert "norms.0 is kept: other calls read linear.weight as well" in " ".join(text.split())
    assert "copied" not in text
