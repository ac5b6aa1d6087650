from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.statistics.batches import Batches
from bnfold.statistics.held_out import HeldOut, compare

from .mixed_networks import Mixed, drawn, frames


def both(before: nn.Module, after: nn.Module, batches: object) -> HeldOut:
    found = compare(before.eval(), after.eval(), Batches(batches, before))
    assert found is not None
    return found


def with_statistics(mean: float, variance: float) -> nn.Module:
    norm = nn.BatchNorm2d(2).eval()
    norm.running_mean.fill_(mean)
    norm.running_var.fill_(variance)
    return norm


STANDARD = [torch.randn(40, 2, 8, 8, generator=torch.Generator().manual_seed(0))]


def test_the_gap_is_the_divergence_of_the_stored_from_the_seen() -> None:
    """In closed form, for normal distributions."""
    values = STANDARD[0].double()
    for mean, variance in ((0.0, 1.0), (0.1, 1.0), (1.0, 3.0), (0.0, 0.2)):
        found = both(with_statistics(mean, variance), with_statistics(0, 1), STANDARD)
        m, v = values.mean((0, 2, 3)), values.var((0, 2, 3), unbiased=False) + 1e-5
        s = variance + 1e-5
        expected = float((0.5 * ((s / v).log() + (v + (m - mean) ** 2) / s - 1)).mean())
        assert found.before.gap == pytest.approx(expected, rel=1e-5)
        assert found.before.gap >= 0
    assert (found.frames, found.before.finite, found.after.right) == (40, 40, None)


def test_worse_statistics_are_worse_and_better_ones_are_not() -> None:
    good, off, noise = with_statistics(0, 1), with_statistics(0.3, 1), with_statistics(0.02, 1.01)
    assert "nats per channel" in both(good, off, STANDARD).worse
    assert not both(off, good, STANDARD).worse
    assert not both(good, noise, STANDARD).worse
    assert not both(good, good, STANDARD).worse
    # one frame proves little, but no value of a normal distribution is so far out
    assert not both(good, off, [STANDARD[0][:1]]).worse
    assert both(good, with_statistics(4, 1), [STANDARD[0][:1]]).worse


def test_what_is_not_finite_is_worse_than_anything_finite() -> None:
    broken = with_statistics(math.nan, 1)
    assert both(with_statistics(0, 1), broken, STANDARD).worse.startswith("the outputs of 40 of 40 frames")
    found = both(broken, with_statistics(5, 1), STANDARD)
    assert not found.worse
    assert (found.before.gap, found.before.finite, found.after.finite) == (math.inf, 0, 40)
    assert found.to_json()["before"]["gap"] is None


class Classifier(nn.Module):
    """Right where the first channel's mean is above the second's, if its statistics are right."""

    def __init__(self, mean: tuple[float, float]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2, affine=False)
        self.norm.running_mean.copy_(torch.tensor(mean))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).mean((2, 3)).flip(1)


def test_answers_decide_where_there_are_class_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 2
    images = torch.randn(30, 2, 4, 4, generator=generator) / 4
    images[torch.arange(30), 1 - labels] += 1
    loader = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    good, bad = Classifier((0.5, 0.5)), Classifier((-4.0, 0.5))
    found = both(good, bad, loader)
    assert (found.before.right, found.after.right) == (30, 15)
    assert found.worse == "15 of 30 frames are answered right, 30 before"
    assert not both(bad, good, loader).worse
    # one answer of thirty is chance, and so is a loss of three of three; five of five are not
    nearly = copy.deepcopy(good)
    assert not both(good, nearly, loader).worse
    few = [(images[labels == 1][:4], labels[labels == 1][:4])]
    reverse = Classifier((-4.0, 0.5)) if both(good, bad, few).after.right == 0 else Classifier((0.5, -4.0))
    assert both(good, reverse, few).worse == ""
    five = [(images[labels == int(few[0][1][0])][:5], torch.full((5,), 1))]
    assert both(good, reverse, five).after.right == 0
    assert both(good, reverse, five).worse.startswith("0 of 5")


def test_unusable_frames_are_left_out() -> None:
    bad = STANDARD[0][:4].clone()
    bad[2] = math.nan
    assert both(with_statistics(0, 1), with_statistics(0, 1), [bad]).frames == 3
    assert compare(with_statistics(0, 1), with_statistics(0, 1), Batches([bad[2:3]], nn.ReLU())) is None


def test_a_worse_result_does_not_pass() -> None:
    """Batches of one kind each, normalised by themselves, hide the spread between them."""
    generator = torch.Generator().manual_seed(0)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second((self.first(x) - 1).relu())

    offsets = torch.arange(-4.0, 5.0)
    sorted_ = [torch.randn(16, 4, generator=generator) / 4 + offset for offset in offsets]
    mixed = list(torch.cat(sorted_)[torch.randperm(144, generator=generator)].split(24))
    good = bnfold.recalibrate(Two(), mixed, sequential=True)
    worse = bnfold.recalibrate(good.module, sorted_, held_out=mixed)
    assert not worse.passed
    assert worse.held_out is not None
    assert worse.held_out.after.gap > worse.held_out.before.gap + 0.05
    assert [finding.code for finding in worse.findings] == ["BNF-A066"]
    assert "--sequential" in worse.findings[0].remedy
    assert worse.to_json()["held_out"]["worse"] == worse.held_out.worse
    assert bnfold.recalibrate(good.module, sorted_, held_out=mixed, sequential=True).passed


def test_a_network_that_stays_broken_is_told() -> None:
    module = drawn(Mixed())
    with torch.no_grad():
        module.last.weight[0] = math.nan
    result = bnfold.recalibrate(module, frames(5, 6), held_out=frames(3))
    assert result.passed
    assert [finding.code for finding in result.findings] == ["BNF-A067"]
    assert "diagnose" in result.findings[0].remedy
    nothing = bnfold.recalibrate(module, frames(5), held_out=[torch.full((1, 2, 9, 9), math.nan)])
    assert [finding.code for finding in nothing.findings] == ["BNF-A068"]
