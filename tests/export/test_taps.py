from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnfold.export import monitor, onnx, taps
from bnfold.export.taps import Tapped, tap
from bnfold.fold import FoldResult, fold
from bnfold.numerics import max_abs_error


def drawn(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            assert child.running_mean is not None
            assert child.running_var is not None
            child.running_mean.copy_(torch.randn(child.num_features, generator=generator))
            child.running_var.copy_(torch.rand(child.num_features, generator=generator) + 0.1)
            with torch.no_grad():
                child.weight.copy_(torch.randn(child.num_features, generator=generator))
                child.bias.copy_(torch.randn(child.num_features, generator=generator))
    return module.eval()


def seen(module: nn.Module, x: Tensor) -> dict[tuple[str, int], np.ndarray]:
    """Means and second moments about beta of the channels of what each BatchNorm gives, by name and moment.

    In float64, one row per frame.
    """
    values: dict[tuple[str, int], np.ndarray] = {}
    twin = module.double()
    handles = []

    def note(name: str, layer: nn.Module, made: Tensor) -> None:
        rows = made.reshape(len(x), -1, made.shape[1], *made.shape[2:])
        rows = rows.reshape(*rows.shape[:3], -1).detach()
        values[name, 1] = rows.mean((1, 3)).numpy()
        values[name, 2] = (rows - layer.bias.view(-1, 1)).square().mean((1, 3)).detach().numpy()

    for name, child in twin.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            handles.append(
                child.register_forward_hook(lambda layer, _, made, name=name: note(name, layer, made))
            )
    with torch.no_grad():
        twin(x.double())
    for handle in handles:
        handle.remove()
    module.float()
    return values


def check(module: nn.Module, x: Tensor) -> tuple[FoldResult, Tapped]:
    """Every tap gives the channel means that the original network has there; the answers are the same.

    On request it gives the second moments as well, where there are several positions.
    """
    folded = fold(module, (x,))
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    expected = seen(module, fresh)
    plain, both = tap(folded), tap(folded, monitor.by_name(monitor.reference(module, folded)))
    for tapped in (plain, both):
        compare(folded, tapped, fresh, expected)
        assert {place.layer for place in tapped.taps} | set(tapped.left_out) == {name for name, _ in expected}
    assert both.left_out == plain.left_out
    assert [place for place in both.taps if place.moment == 1] == plain.taps
    squares = [replace(place, moment=1) for place in both.taps if place.moment == 2]
    assert squares == [place for place in plain.taps if place.positions > 1]
    return folded, plain


def compare(
    folded: FoldResult, tapped: Tapped, fresh: Tensor, expected: dict[tuple[str, int], np.ndarray]
) -> None:
    with torch.no_grad():
        results = tapped.body(fresh)
        answers = folded.module.body(fresh)
    count = len(folded.module.outputs)
    for got, wanted in zip(results[:count], answers, strict=True):
        assert torch.equal(got, wanted)
    assert [spec.name for spec in tapped.outputs[count:]] == [f"tap.{i}" for i in range(len(tapped.taps))]
    for place, found in zip(tapped.taps, results[count:], strict=True):
        wanted = expected[place.layer, place.moment]
        assert found.shape == (len(fresh), place.channels)
        assert max_abs_error(found.numpy(), wanted) <= 1e-5 * max(1.0, float(np.abs(wanted).max()))
    assert len(folded.module.body.graph.output_node().args[0]) == count  # type: ignore[arg-type]


def places(tapped: Tapped) -> dict[str, str]:
    return {place.layer: place.of for place in tapped.taps}


def test_folded_backward_shows_the_output() -> None:
    # equal sizes everywhere, so that only values tell the layers apart
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4),
    )  # fmt: skip
    _, tapped = check(drawn(network), torch.randn(2, 4, 4, 4))
    assert places(tapped) == {"1": "output", "4": "output", "8": "output"}
    assert [place.positions for place in tapped.taps] == [16, 16, 1]


def test_folded_forward_shows_the_input() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3))
    folded, tapped = check(drawn(network), torch.randn(1, 3, 9, 9))
    assert folded.report.batch_norms[0].status == "folded"
    assert places(tapped) == {"2": "input"}


class Branches(nn.Module):
    """As in RepVGG's training form."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3))
        self.point = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))
        self.identity = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.dense(x) + self.point(x) + self.identity(x))


def test_merged_branches_are_left_out_and_named() -> None:
    _, tapped = check(drawn(nn.Sequential(Branches(), Branches())), torch.randn(2, 3, 6, 6))
    assert places(tapped) == {"0.identity": "input", "1.identity": "input"}
    assert set(tapped.left_out) == {"0.dense.1", "0.point.1", "1.dense.1", "1.point.1"}
    assert "neither" in tapped.left_out["0.dense.1"]


def test_the_answer_may_be_what_is_seen() -> None:
    network = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    _, tapped = check(drawn(network), torch.randn(4, 5))
    assert places(tapped) == {"1": "output"}


class Tokens(nn.Module):
    """As in LeViT: four tokens of a frame are rows of one BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bn, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.last(self.bn(y.flatten(0, 1)).reshape(y.shape).sigmoid())


@pytest.mark.parametrize("frames", [1, 4])
def test_rows_of_one_frame_are_averaged(frames: int) -> None:
    _, tapped = check(drawn(Tokens()), torch.randn(frames, 4, 3))
    assert [(place.layer, place.positions) for place in tapped.taps] == [("bn", 4)]


def test_a_symbolic_batch_stays_symbolic() -> None:
    network = drawn(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    folded = fold(network, (torch.randn(2, 3, 8, 8),), dynamic_batch=True)
    tapped = tap(folded)
    assert tapped.outputs[-1].shape == (None, 4)
    assert tapped.body(torch.randn(5, 3, 8, 8))[-1].shape == (5, 4)


def test_a_batch_norm_that_cannot_be_frozen_is_left_out() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    tapped = tap(fold(network, (torch.randn(2, 3, 8, 8),)))
    assert tapped.taps == []
    assert tapped.left_out == {"1": "its statistics cannot be used"}


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_taps_can_be_written(target: str) -> None:
    from bnfold.export import onnx, tflite

    network = drawn(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                                  nn.Linear(4 * 36, 3), nn.BatchNorm1d(3)))  # fmt: skip
    folded = fold(network, (torch.randn(1, 3, 8, 8),))
    tapped = tap(folded)
    writer = {"onnx": onnx, "tflite": tflite}[target]
    exported = writer.export(tapped.body, folded.module.inputs, tapped.outputs, folded.captured.example)
    assert list(exported.outputs) == ["output", "tap.0", "tap.1"]


class Frozen(nn.Module):
    """A BatchNorm that is written out in arithmetic."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.arange(channels) / 3)
        self.register_buffer("running_var", torch.arange(channels) / 3 + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return (x - mean[:, None, None]) * torch.rsqrt(variance + 1e-5)[:, None, None]


def test_one_that_is_written_out_is_left_out_and_the_others_are_seen() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), Frozen(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU()
    )
    folded = fold(drawn(module), (torch.randn(2, 3, 8, 8),))
    tapped = tap(folded)
    assert [entry.name for entry in folded.report.batch_norms] == ["1", "4"]
    assert tapped.left_out == {"1": "its statistics are written out in arithmetic"}
    assert [place.layer for place in tapped.taps] == ["4"]
    reference = monitor.reference(module, folded)
    assert [layer.name for layer in reference.layers] == ["4"]


class Inverted(nn.Module):
    """As in MobileNetV2: wide and narrow values take turns, with a sum of narrow ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = self.norm(nn.Conv2d(3, 8, 3, padding=1, bias=False))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *self.norm(nn.Conv2d(8, 48, 1, bias=False)), nn.ReLU6(),
                *self.norm(nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False)), nn.ReLU6(),
                *self.norm(nn.Conv2d(48, 8, 1, bias=False)),
            )
            for _ in range(3)
        )  # fmt: skip

    @staticmethod
    def norm(conv: nn.Conv2d) -> nn.Sequential:
        return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for block in self.blocks:
            y = y + block(y)
        return y.mean((2, 3))


def read_for_means(tapped: Tapped) -> list[int]:
    """Channels of the 4-D values that are averaged over their positions."""
    means = [node for node in tapped.body.graph.nodes if node.target is torch.ops.aten.mean.dim]
    return [node.args[0].meta["val"].shape[1] for node in means]


def test_a_wide_value_has_its_mean_from_a_narrow_one() -> None:
    _, tapped = check(drawn(Inverted()), torch.randn(2, 3, 24, 24))
    assert len(tapped.taps) == 10
    # three depthwise layers, whose means follow from nothing; the network's own mean is one of the others
    assert sorted(read_for_means(tapped)) == [8] * 5 + [48] * 3


def test_taps_that_would_cost_too_much_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps, "_FREE", 1_500_000)
    monkeypatch.setattr(taps, "_SHARE", 0.0)
    _, tapped = check(drawn(Inverted()), torch.randn(1, 3, 48, 48))
    assert set(read_for_means(tapped)) == {8}
    assert 0 < len(tapped.taps) < 10
    assert all("cost" in why for why in tapped.left_out.values())
    monkeypatch.setattr(taps, "_FREE", 0)
    _, tapped = check(drawn(Inverted()), torch.randn(1, 3, 48, 48))
    assert tapped.taps == []


def test_in_onnx_taps_are_pooled_and_the_answer_is_as_it_was() -> None:
    from onnx import load_from_string

    folded = fold(drawn(Inverted()), (torch.randn(1, 3, 24, 24),))
    tapped = tap(folded)
    arguments = folded.module.inputs, tapped.outputs, folded.captured.example
    for count, pooled in ((0, 0), (len(tapped.taps), 7)):
        exported = onnx.export(tapped.body, *arguments, taps=count)  # which runs the file and compares
        kinds = [node.op_type for node in load_from_string(exported.data).graph.node]
        assert kinds.count("GlobalAveragePool") == pooled
        assert kinds.count("ReduceMean") == 8 - pooled
