from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import bnfold
from bnfold.errors import BnfoldError
from bnfold.statistics.writing import forgotten

from .mixed_networks import MIXED, Mixed, drawn, frames, seen, statistics_of


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.named_buffers()}


def close(actual: Any, expected: Any, rtol: float) -> None:
    np.testing.assert_allclose(np.asarray(actual, dtype=float), expected, rtol=rtol, atol=rtol * 1e-3)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("sizes", [(7,), (1, 12, 3), (5, 5, 1)])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d, ()),
        (nn.BatchNorm1d, (6,)),
        (nn.BatchNorm2d, (4, 5)),
        (nn.BatchNorm3d, (3, 2, 4)),
    ],
)
def test_one_layer_is_exact(
    layer: type[nn.Module], shape: tuple[int, ...], sizes: tuple[int, ...], sequential: bool
) -> None:
    """Also of batches that have one value per channel."""
    generator = torch.Generator().manual_seed(sum(sizes))
    batches = [
        50 + 0.01 * torch.randn(n, 3, *shape, generator=generator, dtype=torch.float64) for n in sizes
    ]
    module = layer(3).double()
    result = bnfold.recalibrate(module, batches, sequential=sequential)
    mean, variance = statistics_of(batches)
    close(result.module.running_mean, mean, 1e-12)
    close(result.module.running_var, variance, 1e-12)
    assert (result.module.running_var > 0).all()
    assert (result.frames, result.batches, result.passed) == (sum(sizes), len(sizes), True)
    assert not result.module.training
    assert module.training
    assert (module.running_mean == 0).all()
    # in float32 the statistics are rounded once
    single = bnfold.recalibrate(layer(3), [batch.float() for batch in batches], sequential=sequential)
    mean, variance = statistics_of([batch.float() for batch in batches])
    assert np.array_equal(single.module.running_mean.numpy(), mean.astype(np.float32))
    close(single.module.running_var, variance, 1e-7)
    close(single.layers[0].variance, variance, 1e-12)


def test_one_pass_pools_what_train_mode_sees() -> None:
    module, batches = drawn(Mixed()), frames(6, 11, 2, 9)
    before = buffers(module)
    result = bnfold.recalibrate(module, iter(batches))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.named_buffers())
    assert [layer.name for layer in result.layers] == MIXED

    # the same by torch: everything in eval mode, BatchNorms by their batch
    reference = copy.deepcopy(module)
    norms = [reference.stem[1], reference.left[1], reference.right[1], reference.last]
    for norm in norms:
        norm.train()
    reference.plain.forward = lambda x: functional.batch_norm(x, None, None, training=True, eps=1e-3)
    inputs = seen(lambda: [reference(batch) for batch in batches], *norms, reference.plain)
    ours = result.module
    for norm, values in zip(
        [ours.stem[1], ours.left[1], ours.right[1], ours.last], inputs[:4], strict=True
    ):
        mean, variance = statistics_of(values)
        close(norm.running_mean, mean, 1e-6)
        close(norm.running_var, variance, 1e-6)
    mean, variance = statistics_of(inputs[4])
    close(ours.plain.mean, mean, 1e-6)
    close(ours.plain.variance, variance, 1e-6)
    assert not ours.stem[3].training


def test_layer_by_layer_gives_the_population_of_the_network_in_eval_mode() -> None:
    module, batches = drawn(Mixed()), frames(6, 1, 2, 9)
    result = bnfold.recalibrate(module, batches, sequential=True)
    ours = result.module
    assert [layer.name for layer in result.layers] == MIXED
    norms = [ours.stem[1], ours.left[1], ours.right[1], ours.last]
    inputs = seen(lambda: [ours(batch) for batch in batches], *norms, ours.plain)
    for norm, values in zip(norms, inputs[:4], strict=True):
        mean, variance = statistics_of(values)
        close(norm.running_mean, mean, 1e-6)
        close(norm.running_var, variance, 1e-6)
    mean, variance = statistics_of(inputs[4])
    close(ours.plain.variance, variance, 1e-6)
    # the way that the frames are dealt into batches changes nothing
    again = bnfold.recalibrate(module, [torch.cat(batches)], sequential=True).module
    for name, tensor in ours.named_buffers():
        torch.testing.assert_close(tensor, dict(again.named_buffers())[name], rtol=1e-5, atol=1e-6)
    # in one pass it does
    assert (result.layers[0].values, result.frames) == (18 * 49, 18)


def test_the_memory_of_the_copy_is_its_own() -> None:
    module = drawn(Mixed())
    result = bnfold.recalibrate(module, frames(4))
    with torch.no_grad():
        module.head.weight.fill_(7)
    assert not (result.module.head.weight == 7).any()
    assert result.module(frames(2)[0]).shape == (2, 3)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -1.0])
def test_nothing_of_broken_statistics_is_left(poison: float, sequential: bool) -> None:
    module, batches = drawn(Mixed()), frames(6, 5)
    healthy = bnfold.recalibrate(module, batches, sequential=sequential).module
    for name, tensor in module.named_buffers():
        if tensor.is_floating_point() and name != "stem.1.running_mean":
            tensor[0] = poison
    repaired = bnfold.recalibrate(module, batches, sequential=sequential, held_out=frames(3, seed=5))
    for name, tensor in healthy.named_buffers():
        assert torch.equal(tensor, dict(repaired.module.named_buffers())[name]), name
    assert repaired.held_out is not None
    assert repaired.held_out.before.gap == math.inf
    assert repaired.held_out.after.finite == repaired.held_out.frames == 3
    assert repaired.passed


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e20])
def test_a_batch_with_a_bad_value_counts_for_no_layer(value: float, sequential: bool) -> None:
    module, batches = drawn(Mixed()), frames(6, 5, 4)
    bad = batches[1].clone()
    bad[3, 1, 0, 0] = value
    result = bnfold.recalibrate(module, [batches[0], bad, batches[2]], sequential=sequential)
    expected = bnfold.recalibrate(module, [batches[0], batches[2]], sequential=sequential)
    for name, tensor in expected.module.named_buffers():
        assert torch.equal(tensor, dict(result.module.named_buffers())[name]), name
    (skipped,) = result.skipped
    assert (skipped.batch, skipped.frames, skipped.index) == (1, ("frame 9",), (3,))
    assert skipped.whole
    assert skipped.where == "image"
    assert (result.frames, result.batches) == (10, 2)
    assert [finding.code for finding in result.findings] == ["BNF-A063"]
    assert "frame 9 (batch 1)" in result.findings[0].message
    # or only the frame
    part = bnfold.recalibrate(
        module, [batches[0], bad, batches[2]], sequential=sequential, guard="frame"
    )
    without = [batches[0], batches[1][[0, 1, 2, 4]], batches[2]]
    expected = bnfold.recalibrate(module, without, sequential=sequential)
    for name, tensor in expected.module.named_buffers():
        assert torch.equal(tensor, dict(part.module.named_buffers())[name]), name
    assert (part.frames, part.skipped[0].whole) == (14, False)


class Amplifier(nn.Module):
    """Its second layer overflows where the input is large."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(2)
        self.second = nn.BatchNorm2d(2)
        self.third = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.exp(x))
        return self.third(self.first(x) + y)


@pytest.mark.parametrize("guard", ["batch", "frame"])
@pytest.mark.parametrize("sequential", [False, True])
def test_what_overflows_inside_counts_for_no_layer_either(sequential: bool, guard: Any) -> None:
    module, batches = Amplifier(), frames(4, 3, 5)
    bad = batches[1].clone()
    bad[2, 0] = 80.0  # exp(80) is a float32, its square is not
    source = [batches[0], bad, batches[2]]
    result = bnfold.recalibrate(module, source, sequential=sequential, guard=guard)
    rest = [batches[0], batches[1][:2], batches[2]] if guard == "frame" else [batches[0], batches[2]]
    expected = bnfold.recalibrate(module, rest, sequential=sequential)
    for name, tensor in expected.module.named_buffers():
        assert torch.equal(tensor, dict(result.module.named_buffers())[name]), name
    (skipped,) = result.skipped
    assert (skipped.batch, skipped.frames, skipped.where) == (1, ("frame 6",), "second")
    assert "overflows" in skipped.reason
    assert skipped.whole == (guard == "batch")


class Deep(nn.Module):
    """What overflows does so behind the first level."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * torch.where(x.abs() > 50, 1e30, 1.0))


def test_a_batch_that_fails_at_a_deeper_level_is_taken_out_of_the_first() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(6, 2, generator=generator) for _ in range(3)]
    bad = batches[1].clone()
    bad[4, 1] = 60.0
    result = bnfold.recalibrate(Deep(), [batches[0], bad, batches[2]], sequential=True)
    expected = bnfold.recalibrate(Deep(), [batches[0], batches[2]], sequential=True)
    for name, tensor in expected.module.named_buffers():
        assert torch.equal(tensor, dict(result.module.named_buffers())[name]), name
    assert [(one.batch, one.where, one.inside) for one in result.skipped] == [(1, "second", True)]
    assert (result.frames, result.batches) == (12, 2)


def test_one_value_per_channel() -> None:
    """Such a batch cannot be normalised by itself, so what is behind it would see nothing of it."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, 3, generator=generator) for n in (4, 1, 5)]
    result = bnfold.recalibrate(Two(), batches)
    expected = bnfold.recalibrate(Two(), [batches[0], batches[2]])
    for name, tensor in expected.module.named_buffers():
        assert torch.equal(tensor, dict(result.module.named_buffers())[name]), name
    assert "one value per channel at first" in result.skipped[0].reason
    assert "--batch" in result.findings[0].remedy
    assert "BNF-A072" not in [finding.code for finding in result.findings]
    one = bnfold.recalibrate(nn.BatchNorm2d(2), [torch.randn(1, 2, 4, 4, generator=generator)])
    assert [(finding.code, finding.severity) for finding in one.findings] == [("BNF-A072", "warning")]
    alone = list(torch.cat(batches).split(1))
    with pytest.raises(BnfoldError) as caught:
        bnfold.recalibrate(Two(), alone)
    assert caught.value.code == "BNF-A060"
    assert "sequential" in caught.value.fix
    one_by_one = bnfold.recalibrate(Two(), alone, sequential=True).module
    at_once = bnfold.recalibrate(Two(), [torch.cat(batches)], sequential=True).module
    for name, tensor in at_once.named_buffers():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, dict(one_by_one.named_buffers())[name])


def test_a_layer_used_at_several_places_pools_all_its_calls() -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.BatchNorm2d(2)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.shared(left) - self.shared(right * 2)

    pairs = list(zip(frames(4, 5, seed=1), frames(4, 5, seed=2), strict=True))
    mean, variance = statistics_of([x for left, right in pairs for x in (left, right * 2)])
    for sequential in (False, True):
        result = bnfold.recalibrate(Siamese(), pairs, sequential=sequential)
        close(result.module.shared.running_mean, mean, 1e-6)
        close(result.module.shared.running_var, variance, 1e-6)
        (layer,) = result.layers
        assert (layer.calls, layer.values) == (("shared", "shared#2"), 2 * 9 * 81)
        assert result.findings == []


def test_calls_that_depend_on_each_other_are_told() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.last = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.shared(self.shared(x) * 3 + 1))

    result = bnfold.recalibrate(Twice(), frames(4, 5), sequential=True)
    assert [finding.code for finding in result.findings] == ["BNF-A065"]
    assert result.findings[0].where == "shared"
    assert len(result.layers) == 2


class ByHand(nn.Module):
    """As detection code freezes it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def test_layers_that_stay_as_they_are_are_listed() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good = nn.BatchNorm2d(2)
            self.hand = ByHand(2)
            self.unused = nn.BatchNorm2d(2)
            self.live = nn.BatchNorm2d(2, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.batch_norm(x, torch.zeros(2), torch.ones(2))
            return self.live(self.hand(self.good(x)))

    result = bnfold.recalibrate(Odd(), frames(4, 5))
    assert [layer.name for layer in result.layers] == ["good"]
    assert {name: reason.partition(",")[0] for name, reason in result.not_recalibrated.items()} == {
        "batch_norm": "its statistics are no pair of buffers of the module's",
        "live": "it has no running statistics",
        "hand": "it normalises by arithmetic of its own",
        "unused": "forward never called it",
    }
    assert [finding.code for finding in result.findings] == ["BNF-A064"] * 4
    with pytest.raises(BnfoldError) as caught:
        bnfold.recalibrate(ByHand(2), frames(4))
    assert caught.value.code == "BNF-U123"
    assert "arithmetic" in caught.value.where
    with pytest.raises(BnfoldError) as caught:
        bnfold.recalibrate(nn.Linear(2, 2), [torch.ones(2, 2)])
    assert caught.value.code == "BNF-U123"


def test_a_prior_blends_the_moments() -> None:
    module, batches = drawn(nn.BatchNorm2d(2).double()), [x.double() for x in frames(6, 4)]
    old_mean, old_variance = module.running_mean.numpy(), module.running_var.numpy()
    mean, variance = statistics_of(batches)
    result = bnfold.recalibrate(module, batches, prior=30)
    a, b = 30 / 40, 10 / 40
    expected = a * old_mean + b * mean
    second = a * (old_variance + old_mean**2) + b * (variance + mean**2)
    close(result.module.running_mean, expected, 1e-12)
    close(result.module.running_var, second - expected**2, 1e-12)
    assert result.to_json()["prior"] == 30
    replaced = bnfold.recalibrate(module, batches, prior=0).module
    close(replaced.running_mean, mean, 1e-12)
    in_sequence = bnfold.recalibrate(module, batches, prior=30, sequential=True).module
    close(in_sequence.running_var, second - expected**2, 1e-12)


@pytest.mark.parametrize(
    ("prior", "code"),
    [(-1, "BNF-U122"), (math.inf, "BNF-U122"), ("3", "BNF-U122"), (True, "BNF-U122"), (5, "BNF-A061")],
)
def test_a_prior_that_cannot_be_used_is_refused(prior: Any, code: str) -> None:
    module = drawn(Mixed())
    module.last.running_var[1] = math.nan
    with pytest.raises(BnfoldError) as caught:
        bnfold.recalibrate(module, frames(4), prior=prior)
    assert caught.value.code == code
    if code == "BNF-A061":
        assert caught.value.where == "last, channel 1"


def test_the_count_of_updates_is_that_of_a_converged_average() -> None:
    assert [forgotten(momentum) for momentum in (0.1, 0.5, 0.01, None)] == [66, 10, 688, 66]
    assert (1 - 0.1) ** 66 < 1e-3 < (1 - 0.1) ** 65
    module = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=0.01))
    result = bnfold.recalibrate(module, frames(4, 4)).module
    assert [int(norm.num_batches_tracked) for norm in result] == [66, 688]
    module[0].num_batches_tracked.fill_(5000)
    assert int(bnfold.recalibrate(module, frames(4)).module[0].num_batches_tracked) == 5000


def test_batches_of_a_data_loader() -> None:
    images, labels = torch.cat(frames(11)), torch.arange(11)
    module = drawn(Mixed())
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    with_labels = bnfold.recalibrate(module, loader)
    plain = bnfold.recalibrate(module, images.split(4))
    for name, tensor in plain.module.named_buffers():
        assert torch.equal(tensor, dict(with_labels.module.named_buffers())[name])


@pytest.mark.parametrize(
    ("batches", "options", "code"),
    [
        ([torch.ones(2, 3, 9, 9)], {}, "BNF-U120"),
        ([torch.full((2, 2, 9, 9), math.nan)], {}, "BNF-A060"),
        ([torch.full((2, 2, 9, 9), math.nan)], {"sequential": True}, "BNF-A060"),
        (iter(frames(3)), {"sequential": True}, "BNF-U081"),
        ([], {}, "BNF-U080"),
    ],
)
def test_what_cannot_be_used_is_refused(batches: Any, options: dict[str, Any], code: str) -> None:
    with pytest.raises(BnfoldError) as caught:
        bnfold.recalibrate(drawn(Mixed()), batches, **options)
    assert caught.value.code == code


def test_batches_that_change_from_pass_to_pass_are_refused() -> None:
    class Fewer:
        def __init__(self) -> None:
            self.left = 9

        def __iter__(self) -> Any:
            self.left -= 1
            return iter(frames(*[2] * self.left))

    with pytest.raises(BnfoldError) as caught:
        bnfold.recalibrate(drawn(Mixed()), Fewer(), sequential=True)
    assert caught.value.code == "BNF-U121"


def test_no_module() -> None:
    with pytest.raises(BnfoldError) as caught:
        bnfold.recalibrate({"a": 1}, frames(2))  # type: ignore[arg-type]
    assert caught.value.code == "BNF-U026"


def test_the_document() -> None:
    module = drawn(Mixed())
    module.stem[1].running_mean[2] = math.nan
    result = bnfold.recalibrate(module, frames(6, 5))
    document = result.to_json(arrays=True)
    assert document["passed"] is True
    stem = document["layers"][0]
    assert (stem["name"], stem["channels"], stem["values"]) == ("stem.1", 4, 11 * 49)
    assert (stem["not_finite_before"], stem["shifted_channel"], stem["largest_shift"]) == (1, 2, None)
    assert stem["statistics"]["old_mean"][2] is None
    left = result.layers[1]
    expected = np.abs(left.mean - left.old_mean) / np.sqrt(left.variance + 1e-5)
    assert document["layers"][1]["largest_shift"] == pytest.approx(expected.max(), rel=1e-12)
    assert "statistics" not in result.to_json()["layers"][0]
    assert document["frames_per_second"] > 0


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.statistics import pooling

    monkeypatch.setattr(pooling, "_EVERY", 0.0)
    words: list[str] = []
    bnfold.recalibrate(drawn(Mixed()), frames(3, 3), progress=words.append)
    assert [word.partition(" frames")[0] for word in words] == ["pooling: 3", "pooling: 6"]
    assert words[-1].endswith("frames/s")
    words.clear()
    bnfold.recalibrate(drawn(Mixed()), frames(3, 3), sequential=True, progress=words.append)
    assert [word.partition(":")[0] for word in words[::2]] == [f"level {i} of 4" for i in (1, 2, 3, 4)]
