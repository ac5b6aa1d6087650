from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnfold.statistics.observe import Call, answering
from bnfold.statistics.targets import Target, Targets, holders


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fixed = nn.Parameter(torch.zeros(1, 3), requires_grad=False)
        self.register_buffer("spread", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        x = functional.batch_norm(x, self.fixed.view(3), self.spread)  # a view of a parameter
        x = functional.batch_norm(x, self.spread, self.spread)  # one tensor for both
        x = functional.batch_norm(x, self.norm.running_mean, self.spread)  # another partner
        return functional.batch_norm(x, self.spread.clone(), self.spread + 1)  # of nobody


def found(module: nn.Module) -> dict[str, Target | None]:
    targets, seen = Targets(module), dict[str, Target | None]()

    def answer(call: Call) -> Tensor:
        seen[call.name] = targets.find(call)
        return call.in_eval()

    with torch.no_grad(), answering(module.eval(), answer):
        module(torch.randn(2, 3, 4, 4))
    return seen


def test_calls_are_traced_to_the_tensors_that_they_read() -> None:
    norm = Target("norm", "norm.running_mean", "norm.running_var")
    assert found(Odd()) == {
        "norm": norm,
        "batch_norm": Target("fixed", "fixed", "spread"),
        "batch_norm#2": None,
        "batch_norm#3": None,
        "batch_norm#4": None,
    }
    assert norm.updates == "norm.num_batches_tracked"


def test_one_layer_alone() -> None:
    module = nn.BatchNorm1d(2)
    assert holders(module) == {"running_mean": ("", module)}
    target = Target("", "running_mean", "running_var")
    targets = Targets(module)
    assert targets.tensors(target) == (module.running_mean, module.running_var)
    assert targets.updates(target) is module.num_batches_tracked
    assert Targets(Odd()).updates(Target("fixed", "fixed", "spread")) is None


def test_a_layer_under_two_names_is_one() -> None:
    norm = nn.BatchNorm2d(3)
    module = nn.Sequential(norm, norm)
    assert list(holders(module)) == ["0.running_mean"]
    seen = found(module)
    assert set(seen.values()) == {Target("0", "0.running_mean", "0.running_var")}
