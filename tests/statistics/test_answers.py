from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.statistics.batches import Batches
from bnfold.statistics.forward import Forward

from .mixed_networks import frames, statistics_of


class Louder(nn.BatchNorm2d):
    """What it gives is more than its BatchNorm."""

    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward(input)


class Doubling:
    """A forward that somebody has put into one layer."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        self._layer = layer

    def __call__(self, values: Tensor) -> Tensor:
        return 2 * nn.BatchNorm2d.forward(self._layer, values)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    plain, hooked, changed = nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(2)
    hooked.register_forward_hook(lambda module, given, found: found + 1)
    changed.forward = Doubling(changed)  # type: ignore[method-assign]
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    layers = nn.Sequential(plain, nn.Conv2d(2, 2, 1), plain, Louder(2), hooked, changed, nn.Conv2d(2, 2, 1))
    return layers.append(nn.BatchNorm2d(2, track_running_stats=False)).eval()


def test_layers_are_answered_alike_in_their_forward_and_behind_it() -> None:
    """The batches after the first take the short way, and see what the first would have seen."""
    module = network()
    forward = Forward(module)
    batch: Any
    (batch,) = Batches(frames(5), module)
    first, second, third = (forward.pool(batch, guard="batch")[0] for _ in range(3))
    assert [target.name for target in first.targets] == ["0", "0", "3", "4", "5"]
    assert first.targets == second.targets == third.targets
    assert first.moments.both.tolist() == second.moments.both.tolist() == third.moments.both.tolist()
    assert forward._quick
    own = [name for name, layer in module.named_modules() if "forward" in layer.__dict__]
    assert own == ["5"]


def test_a_pass_that_ends_early_leaves_the_layers_as_they_were() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x)
            if len(x) == 3:
                raise ValueError("three frames")
            return x

    module = Fails().eval()
    forward = Forward(module)
    good, other, bad = Batches(frames(4, 4, 3), module)
    forward.pool(good, guard="batch")
    forward.pool(other, guard="batch")
    with pytest.raises(bnfold.errors.UsageError, match="three frames"):
        forward.pool(bad, guard="batch")
    assert "forward" not in module.norm.__dict__


def test_a_layer_given_other_axes_later_says_what_it_says_in_training() -> None:
    module = nn.Sequential(nn.BatchNorm2d(2))
    batches = [*frames(4, 4), torch.zeros(4, 2, 9)]
    with pytest.raises(bnfold.errors.UsageError, match="expected 4D input"):
        bnfold.recalibrate(module, batches)


def test_weights_that_a_hook_replaces_count() -> None:
    """They are read at every call."""

    def replace(module: nn.Module, given: Any) -> None:
        module.weight = nn.Parameter(given[0].detach().mean() * torch.ones(2))

    norm, behind = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    norm.register_forward_pre_hook(replace)
    module = nn.Sequential(norm, behind)
    batches = [x + 3 * number for number, x in enumerate(frames(6, 6, 6))]
    result = bnfold.recalibrate(module, batches)
    scaled = []
    for x in batches:
        rows = x.double()
        mean, variance = rows.mean((0, 2, 3), keepdim=True), rows.var((0, 2, 3), correction=0, keepdim=True)
        scaled.append(rows.mean() * (rows - mean) / torch.sqrt(variance + 1e-5))
    mean, variance = statistics_of(scaled)
    want = torch.tensor(variance).float()
    torch.testing.assert_close(result.module[1].running_var, want, rtol=1e-5, atol=0)


def test_a_layer_may_be_given_its_input_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(input=x)  # type: ignore[no-any-return]

    batches = frames(4, 5, 6)
    mean, _ = statistics_of(batches)
    result = bnfold.recalibrate(Named(), batches)
    torch.testing.assert_close(result.module.norm.running_mean, torch.tensor(mean).float())


@pytest.mark.parametrize("name", ["weight", "running_mean"])
def test_tensors_that_are_held_in_another_way_count(name: str) -> None:
    """An attribute where torch has a parameter, as weight_norm leaves it; a parameter for a buffer."""
    module = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2)).eval()
    layer, value = module[0], torch.tensor([2.0, 3.0])
    delattr(layer, name)
    setattr(layer, name, value if name == "weight" else nn.Parameter(value))
    batches = frames(6, 6, 6)
    result = bnfold.recalibrate(module, batches)
    mean, _ = statistics_of(batches)
    torch.testing.assert_close(result.module[0].running_mean.detach(), torch.tensor(mean).float())
    scale = (value if name == "weight" else torch.ones(2)) ** 2
    correction = 6 * 81 * 3 / (6 * 81 * 3 - 1)
    want = scale * correction
    torch.testing.assert_close(result.module[1].running_var, want, rtol=1e-4, atol=0)


def test_a_layer_that_takes_another_forward_on_the_way_keeps_it() -> None:
    """In its first pass, which has told nothing of it."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            if "forward" not in self.norm.__dict__:
                self.norm.forward = Doubling(self.norm)  # type: ignore[method-assign]
            return self.norm(x)  # type: ignore[no-any-return]

    module = Late().eval()
    forward = Forward(module)
    for batch in Batches(frames(4, 4, 4), module):
        forward.pool(batch, guard="batch")
        assert isinstance(module.norm.forward, Doubling)
