from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnfold.finding import Finding
from bnfold.statistics.batches import Batches
from bnfold.statistics.diagnose.dependence import dependence


class Functional(nn.Module):
    """Batch statistics after a linear layer: torch raises on a batch of one."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, training=True)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Two(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"sum": x + y, "inner": self.inner(x)}


def found(*layers: nn.Module, shape: tuple[int, ...] = (6, 3, 5, 5)) -> list[Finding]:
    torch.manual_seed(0)
    module = nn.Sequential(*layers).eval()
    (batch,) = Batches([torch.randn(shape)], module)
    return dependence(module, batch)


def test_a_network_with_population_statistics_is_not_accused() -> None:
    assert found(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)) == []


def test_batch_statistics_in_use_are_named_with_their_layer() -> None:
    (one,) = found(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    assert (one.code, one.severity, one.where) == ("BNF-A015", "error", "1")
    assert one.evidence["layers"] == ["1"]
    assert one.evidence["distance"] > 0.5


def test_a_network_that_raises_on_one_frame_depends_on_its_batch() -> None:
    (one,) = found(nn.Linear(3, 4), nn.Sequential(Functional(), nn.ReLU()), shape=(6, 3))
    assert (one.code, one.severity, one.where) == ("BNF-A015", "error", "1.0.batch_norm")
    assert "no single frame" in one.message
    assert "Expected more than 1 value per channel" in one.evidence["raised"]


def test_where_another_operator_mixes_frames_the_module_is_named() -> None:
    (one,) = found(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(Centred()), nn.ReLU())
    assert (one.code, one.where) == ("BNF-A015", "2.0")
    assert one.evidence["layers"] == []


def test_several_inputs_and_outputs() -> None:
    module = Two(Centred()).eval()
    (batch,) = Batches([(torch.randn(4, 3), torch.randn(4, 3))], module)
    (one,) = dependence(module, batch)
    assert (one.where, one.evidence["outputs"]) == ("inner", ["inner"])
    assert dependence(Two(nn.ReLU()), batch) == []


def test_a_network_that_takes_no_other_batch_is_a_note() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(1, 75)

    (one,) = found(Fixed())
    assert (one.code, one.severity) == ("BNF-V007", "info")


def test_what_fails_on_any_batch_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        found(nn.Linear(7, 2), shape=(4, 3))
