"""Frames out of population statistics: they give every BatchNorm what it has stored, and change nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import bnfold
from bnfold.errors import UsageError
from bnfold.quantize.calibration import unbounded
from bnfold.quantize.distil import distil, image_limits
from bnfold.samples import Frames
from bnfold.signature import TensorSpec
from tests.verify.networks import SHAPE, Sensor, Small, built
from tests.verify.networks import frames as frames_

IMAGE = (TensorSpec("x", SHAPE, "float32"),)


def trained(scale: float = 3.0, shift: float = 1.0) -> nn.Module:
    """A network whose statistics are those of frames that look like anything but noise."""
    seen = scale * (frames_(256, seed=8) + shift)
    return bnfold.recalibrate(built(Small), [torch.from_numpy(seen)], sequential=True).module


def distances(module: nn.Module, *inputs: torch.Tensor) -> list[float]:
    """Of each BatchNorm's input from what is stored: the largest shift and log ratio, in deviations."""
    found: list[float] = []

    def look(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        axes = [0, *range(2, given[0].dim())]
        deviation = torch.sqrt(layer.running_var + layer.eps)  # type: ignore[operator,arg-type]
        shift = ((given[0].mean(axes) - layer.running_mean) / deviation).abs().max()
        ratio = (given[0].std(axes) / deviation).log().abs().max()
        found.append(float(torch.maximum(shift, ratio)))

    handles = [
        child.register_forward_pre_hook(look)
        for child in module.modules()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
    ]
    with torch.no_grad():
        module(*inputs)
    for handle in handles:
        handle.remove()
    return found


def batch(frames: Frames) -> list[torch.Tensor]:
    return [torch.from_numpy(np.concatenate([call[spec.name] for call in frames])) for spec in frames.inputs]


def test_the_frames_have_the_statistics_and_noise_has_not() -> None:
    module = trained()
    frames = distil(module, (torch.zeros(SHAPE),), IMAGE, {})
    assert (frames.source, frames.given, frames.size, len(frames)) == ("random", 0, 1, 24)
    noise = distances(module, torch.randn(24, *SHAPE[1:], generator=torch.Generator().manual_seed(0)))
    ours = distances(module, *batch(frames))
    assert len(ours) == 2
    assert max(noise) > 0.8
    assert max(ours) < 0.2


def test_noise_of_another_size_is_brought_to_the_statistics() -> None:
    """Trained on 16-bit numbers, say: the first layer's statistics tell how large its input was."""
    module = trained(3000.0)
    frames = distil(module, (torch.zeros(SHAPE),), IMAGE, {})
    assert max(distances(module, *batch(frames))) < 0.3
    assert np.abs(batch(frames)[0].numpy()).max() > 1000


def test_the_same_network_gives_the_same_frames_and_is_left_as_it_is() -> None:
    module = built(Small).train()
    before = copy.deepcopy(module.state_dict())
    first, second = (batch(distil(module, (torch.zeros(SHAPE),), IMAGE, {}))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert module.training
    assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_images_stay_within_what_a_pixel_can_become() -> None:
    how = {
        "layout": "NCHW", "color": "rgb", "resize": "stretch", "scale": 1 / 255,
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.4],
    }  # fmt: skip
    limits = image_limits({"x": how, "y": None}, (*IMAGE, TensorSpec("y", (1, 2), "float32")))
    assert list(limits) == ["x"]
    low, high = limits["x"]
    np.testing.assert_allclose(low.ravel(), [-2.5, -2.0, -0.75], rtol=1e-6)
    np.testing.assert_allclose(high.ravel(), [2.5, 3.0, 1.75], rtol=1e-6)
    (images,) = batch(distil(built(Small), (torch.zeros(SHAPE),), IMAGE, limits))
    assert (images >= low).all()
    assert (images <= high).all()


def test_several_inputs_and_a_fixed_batch() -> None:
    specs = (TensorSpec("series", (5, 3, 32), "float32"), TensorSpec("ambient", (5, 2), "float32"))
    example = (torch.zeros(5, 3, 32), torch.zeros(5, 2))
    frames = distil(built(Sensor), example, specs, {})
    assert (frames.size, len(frames)) == (5, 5)
    assert [array.shape for array in frames.first().values()] == [(5, 3, 32), (5, 2)]
    assert all(len(one) == 25 for one in batch(frames))


class Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


class OnlyOne(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            raise ValueError("one at a time")
        return super().forward(x)


class Features(nn.Module):
    """Numbers of very different size, which no noise of one size becomes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean = torch.tensor([1000.0, 0.1, -20.0, 3.0])
        self.norm.running_var = torch.tensor([1.0, 0.01, 400.0, 0.1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def test_noise_that_does_not_come_near_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        distil(Features().eval(), (torch.zeros(1, 4),), (TensorSpec("x", (1, 4), "float32"),), {})
    assert caught.value.code == "BNF-U152"
    assert "no noise was found" in str(caught.value)


def test_integers_cannot_be_brought_closer() -> None:
    class Pixels(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x / 255)

    spec = TensorSpec("x", SHAPE, "uint8")
    with pytest.raises(UsageError) as caught:
        distil(Pixels().eval(), (torch.zeros(SHAPE, dtype=torch.uint8),), (spec,), {})
    assert caught.value.code == "BNF-U152"


def test_an_input_without_limits_is_told() -> None:
    specs = (TensorSpec("image", SHAPE, "float32"), TensorSpec("state", (1, 2), "float32"))
    specs += (TensorSpec("kind", (1,), "int64"),)
    assert [found.where for found in unbounded(specs, {"image": None})] == ["input 'state'"]


@pytest.mark.parametrize("kind", [Plain, OnlyOne])
def test_a_network_that_tells_no_ranges_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(UsageError) as caught:
        distil(kind().eval(), (torch.zeros(SHAPE),), IMAGE, {})
    assert caught.value.code == "BNF-U152"
    assert "--samples" in caught.value.fix
