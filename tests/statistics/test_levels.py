from __future__ import annotations

import torch
from torch import Tensor, nn

from bnfold.statistics.batches import Batches
from bnfold.statistics.forward import Forward
from bnfold.statistics.levels import levels

from .mixed_networks import Mixed, drawn, frames


def named(module: nn.Module, batch: object) -> list[list[str]]:
    (only,) = Batches([batch], module)
    return [[target.name for target in level.targets] for level in levels(Forward(module.eval()), only)]


def test_branches_share_a_level() -> None:
    module = drawn(Mixed())
    before = {name: tensor.clone() for name, tensor in module.named_buffers()}
    assert named(module, frames(5)[0]) == [["stem.1"], ["left.1", "right.1"], ["plain.mean"], ["last"]]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.named_buffers())


class Gate(nn.Module):
    """A dependence that no gradient shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.BatchNorm2d(2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        gate = (self.first(x) > 0).float()
        index = self.second(x).flatten(1).argmax(1)
        return self.third(x + gate.detach() * index[:, None, None, None])


def test_dependence_through_comparisons_and_indices_is_seen() -> None:
    assert named(Gate(), frames(5)[0]) == [["first", "second"], ["third"]]


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).reshape(4, 2, -1))


def test_a_network_that_insists_on_its_batch() -> None:
    assert named(Picky(), frames(4)[0]) == [["first"], ["second"]]


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x + torch.randn_like(x)))


def test_a_random_network_goes_one_by_one() -> None:
    assert named(Random(), frames(4)[0]) == [["first"], ["second"]]


def test_half_precision_and_shared_layers() -> None:
    shared = nn.BatchNorm2d(2)
    module = nn.Sequential(shared, nn.ReLU(), shared, nn.BatchNorm2d(2)).bfloat16().eval()
    (batch,) = Batches([frames(3)[0].bfloat16()], module)
    found = levels(Forward(module), batch)
    assert [(level.calls, len(level.entangled)) for level in found] == [
        (frozenset({"0", "0#2"}), 1),
        (frozenset({"3"}), 0),
    ]
