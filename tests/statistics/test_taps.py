"""What is tapped, and how it is named and counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.errors import InputError, UsageError
from bnfold.statistics.taps import tap


class Shared(nn.Module):
    """One BatchNorm used twice, one that uses batch statistics, one over (frames x 3, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4, momentum=0.2)
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)
        self.rows = nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor, side: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.norm(self.conv(self.norm(x)))
        self.batch(y)
        return {"y": y, "rows": self.rows(side.flatten(0, 1)).view(side.shape)}


@pytest.fixture
def network() -> Shared:
    torch.manual_seed(0)
    model = Shared()
    for norm in (model.norm, model.rows):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model.norm.num_batches_tracked += 7
    return model


def test_every_call_is_named_counted_and_averaged(network: Shared) -> None:
    random = np.random.default_rng(0)
    inputs = {"x": random.normal(size=(70, 4, 3, 3)), "side": random.normal(size=(70, 3, 5))}
    found = tap(network, inputs)
    assert [layer.name for layer in found.reference.layers] == ["norm", "norm#2", "rows"]
    assert [layer.positions for layer in found.reference.layers] == [9, 9, 3]
    assert [layer.momentum for layer in found.reference.layers] == [0.2, 0.2, 0.1]
    assert [layer.batches for layer in found.reference.layers] == [7, 7, None]
    assert list(found.reference.left_out) == ["batch"]
    assert "batch statistics" in found.reference.left_out["batch"]
    assert found.scores is None
    network.eval()
    with torch.no_grad():
        x = torch.from_numpy(inputs["x"]).float()
        side = torch.from_numpy(inputs["side"]).float()
        first = network.norm(x).mean((2, 3)).numpy()
        rows = network(x, side)["rows"].mean(1).numpy()
    assert found.means[0] == pytest.approx(first, abs=1e-5)
    assert found.means[2] == pytest.approx(rows, abs=1e-5)


def test_second_moments_about_the_population_mean(network: Shared) -> None:
    """Of every call with several positions, behind its means."""
    random = np.random.default_rng(0)
    inputs = {"x": random.normal(size=(70, 4, 3, 3)), "side": random.normal(size=(70, 1, 5))}
    plain, found = tap(network, inputs), tap(network, inputs, second_moments=True)
    names = [layer.name for layer in found.reference.layers]
    assert names == ["norm", "norm^2", "norm#2", "norm#2^2", "rows"]
    for name, means in zip(("norm", "norm#2", "rows"), plain.means, strict=True):
        assert np.array_equal(found.means[names.index(name)], means)
    assert network.norm.bias is not None
    with torch.no_grad():
        first = network.norm.eval()(torch.from_numpy(inputs["x"]).float())
        second = network.norm(network.conv(first))
        about = network.norm.bias.double()[:, None, None]
        for value, name in ((first, "norm^2"), (second, "norm#2^2")):
            expected = (value.double() - about).square().mean((2, 3)).numpy()
            assert found.means[names.index(name)] == pytest.approx(expected, rel=1e-6)
    network.norm.running_var[1] = -1
    layers = tap(network, inputs, second_moments=True).reference.layers
    assert [layer.name for layer in layers] == ["rows"]


def test_the_reference_is_the_mean_and_deviation_of_the_output(network: Shared) -> None:
    """Checked on values with exactly the population's mean and variance."""
    layer = tap(network, {"x": np.zeros((2, 4, 3, 3)), "side": np.zeros((2, 3, 5))}).reference.layers[0]
    mean, variance = network.norm.running_mean, network.norm.running_var
    assert mean is not None
    assert variance is not None
    sides = torch.stack([mean - variance.sqrt(), mean + variance.sqrt()])[:, :, None, None]
    with torch.no_grad():
        out = network.norm.eval()(sides)[..., 0, 0].double().numpy()
    assert layer.mean == pytest.approx(out.mean(0), abs=1e-6)
    assert layer.deviation == pytest.approx(out.std(0), abs=1e-6)


def test_a_module_that_takes_one_frame_at_a_time() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.norm(x.view(1, 6))
            return y

    values = np.random.default_rng(0).normal(size=(40, 2, 3))
    found = tap(One(), values)
    assert found.means[0] == pytest.approx(values.reshape(40, 6) / np.sqrt(1 + 1e-5), abs=1e-5)
    assert found.scores is not None
    assert found.scores.shape == (40, 6)


def test_statistics_that_cannot_be_used(network: Shared) -> None:
    network.norm.running_mean[2] = float("nan")
    inputs = {"x": np.zeros((2, 4, 3, 3)), "side": np.zeros((2, 3, 5))}
    found = tap(network, inputs)
    assert [layer.name for layer in found.reference.layers] == ["rows"]
    assert "not finite" in found.reference.left_out["norm#2"]
    network.rows.running_var[0] = -1
    with pytest.raises(UsageError) as caught:
        tap(network, inputs)
    assert caught.value.code == "BNF-U141"
    assert "audit" in caught.value.fix


def test_frames_that_do_not_fit(network: Shared) -> None:
    with pytest.raises(InputError) as caught:
        tap(network, {"x": np.zeros((2, 3, 3, 3)), "side": np.zeros((2, 3, 5))})
    assert caught.value.code == "BNF-R030"
    assert "x float64 (2, 3, 3, 3)" in caught.value.where or "x float64 (1, 3, 3, 3)" in caught.value.where
