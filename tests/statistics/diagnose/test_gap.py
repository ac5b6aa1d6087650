from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.statistics.batches import Batches
from bnfold.statistics.diagnose import passes
from bnfold.statistics.diagnose.gap import Gap, between, gaps, quantile
from tests.statistics.diagnose.networks import frames, sound


def run(module: nn.Module, data: torch.Tensor, mode: passes.Mode = "train") -> passes.Pass:
    return passes.run(module, list(Batches(list(data.split(32)), module)), mode)


def tail(value: float, freedom: int) -> float:
    """Of Student's t above ``value``, by integrating its density."""
    x = np.linspace(value, value + 4000, 4_000_001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    return float(np.trapezoid(density, x))


@pytest.mark.parametrize("freedom", [15, 31, 63, 255])
@pytest.mark.parametrize("wanted", [1e-2, 1e-4, 1e-6])
def test_the_quantile_is_student_s(freedom: int, wanted: float) -> None:
    assert tail(quantile(wanted, freedom), freedom) == pytest.approx(wanted, rel=0.06)


def test_no_freedom_no_verdict() -> None:
    assert quantile(0.01, 0) == math.inf


@pytest.mark.parametrize("count", [16, 64, 256, 1000])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_statistics_that_fit_do_not_part(count: int, mode: passes.Mode) -> None:
    for seed in range(3):
        found = gaps(run(sound(seed), frames(count, seed), mode))
        assert list(found) == ["bn1", "bn2", "bn3"]
        assert not any(gap.parted.any() for gap in found.values())


def test_a_shifted_mean_is_measured_in_the_data_s_deviations() -> None:
    module, data = sound(), frames(256, 1)
    with torch.no_grad():
        module.bn2.running_mean[3] += 2 * module.bn2.running_var[3].sqrt()
    found = gaps(run(module, data))
    gap = found["bn2"]
    assert gap.channels == [3]
    assert gap.worst == 3
    assert gap.tensor == "running_mean"
    assert gap.mean[3] == pytest.approx(2, abs=0.2)
    assert 1.5 < gap.certain[3] < 2.2
    assert not found["bn1"].parted.any()
    assert not found["bn3"].parted.any(), "in train mode a gap stays where it arises"
    assert gaps(run(module, data, "eval"))["bn3"].parted.any(), "in eval mode it goes on"


def test_a_wrong_variance_is_a_factor() -> None:
    module = sound()
    with torch.no_grad():
        module.bn1.running_var[4] *= 9
    gap = gaps(run(module, frames(256, 1)))["bn1"]
    assert gap.channels == [4]
    assert gap.tensor == "running_var"
    assert gap.scale[4] == pytest.approx(math.log(3), abs=0.05)


def test_what_is_not_finite_has_no_gap() -> None:
    module = sound()
    module.bn1.running_mean[2] = float("nan")
    gap = gaps(run(module, frames(64, 1)))["bn1"]
    assert np.flatnonzero(~np.isfinite(gap.mean)).tolist() == [2]
    assert not gap.parted.any()
    assert math.isfinite(gap.typical)


def test_pixels_are_no_units() -> None:
    """A gap that the pixels would prove and the frames do not is let pass."""
    module, data = sound(), frames(16, 5)
    with torch.no_grad():
        module.bn1.running_mean += 0.3 * module.bn1.running_var.sqrt()
    gap = gaps(run(module, data))["bn1"]
    values = 16 * 49
    assert (np.abs(gap.mean) > 5 / math.sqrt(values)).any()
    assert not gap.parted.any()


def test_two_samples() -> None:
    module = sound()
    here, same = run(module, frames(200, 1), "eval"), run(module, frames(150, 2), "eval")
    other = run(module, 2 * frames(150, 3), "eval")
    pairs = [(name, name) for name in here.readings]
    assert not any(gap.parted.any() for gap in between(here, same, pairs).values())
    found: dict[str, Gap] = between(here, other, pairs)
    assert found["bn1"].scale == pytest.approx(np.full(6, math.log(2)), abs=0.15)
    assert found["bn1"].parted.all()
