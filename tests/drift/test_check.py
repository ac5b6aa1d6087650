"""The check as a whole, on modules and on what an artifact gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import bnfold
from bnfold.drift import Baseline, DriftResult, LayerReference, Reference, Taps, observe, tiers
from bnfold.drift.result import LayerDrift, TierResult
from bnfold.drift.tier0 import LayerTest
from bnfold.drift.verdict import findings_of
from bnfold.errors import ArtifactError, BnfoldError, InputError, UsageError
from bnfold.statistics.taps import tap

Array = NDArray[np.float32]


class Net(nn.Module):
    """Three BatchNorms over images, one over a vector; statistics of many frames of ``frames``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU())
        self.neck = nn.Sequential(nn.Linear(24, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.head = nn.Linear(12, 5)
        self.plant = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(self.stem(x)) + self.plant
        y: torch.Tensor = self.head(self.neck(self.last(x).mean((2, 3))))
        return y


def frames(count: int, seed: int) -> Array:
    """Images of two colour gradients and some noise, so that frames differ as scenes do."""
    random = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, 12)
    slopes = random.normal(size=(2, count, 3, 1, 1))
    level = 0.5 + 0.1 * random.normal(size=(count, 3, 1, 1))
    found = level + 0.15 * (slopes[0] * grid[:, None] + slopes[1] * grid)
    return (found + 0.05 * random.normal(size=found.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        nn.init.uniform_(norm.weight, -1.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = None  # the plain average over all batches
    model.train()
    with torch.no_grad():
        for seed in range(40):
            model(torch.from_numpy(frames(64, 1000 + seed)))
    return model.eval()


def codes(result: DriftResult) -> list[str]:
    return [finding.code for finding in result.findings]


def test_frames_of_training(net: Net) -> None:
    result = bnfold.drift.check(net, frames(64, 1), baseline=frames(100, 2))
    assert not result.drifted
    assert result.judged
    assert result.passed
    assert [tier.tier for tier in result.tiers] == [1, 0]
    assert [layer.name for layer in result.tiers[0].layers] == ["stem.1", "body.1", "last.1", "neck.1"]
    assert result.effective_frames == 64
    assert codes(result) == ["BNF-D006", "BNF-D002"]
    assert "64 independent frames against 100 held-out ones" in result.findings[0].message
    json.dumps(result.to_json(), allow_nan=False)


def test_tier_0_alone(net: Net) -> None:
    result = bnfold.drift.check(net, frames(64, 1), train_batch=64)
    assert [tier.tier for tier in result.tiers] == [0]
    assert not result.drifted
    assert "training batch 64" in result.findings[0].message


def test_the_module_is_left_as_it_was(net: Net) -> None:
    net.train()
    net.head.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    bnfold.drift.check(net, frames(16, 1))
    assert net.training
    assert not net.head.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    net.eval()


@pytest.mark.parametrize("given", [False, True], ids=["tier 0", "tier 1"])
def test_a_darker_camera(net: Net, given: bool) -> None:
    dark = 0.3 * frames(64, 1)
    result = bnfold.drift.check(net, dark, baseline=frames(100, 2) if given else None)
    assert result.drifted
    assert not result.passed
    first = result.findings[0]
    assert first.code == "BNF-A017"
    assert first.severity == "error"
    assert first.where.startswith("stem.1[")
    assert first.evidence["tier"] == int(given)
    assert first.evidence["propagated"] == ["body.1", "last.1", "neck.1"]
    if given:
        assert "darker" in first.message
        assert "less contrast" in first.message


@pytest.mark.parametrize("given", [False, True], ids=["tier 0", "tier 1"])
def test_a_shift_inside_is_blamed_where_it_begins(net: Net, given: bool) -> None:
    baseline = frames(100, 2) if given else None
    clean = bnfold.drift.check(net, frames(64, 3), baseline=baseline)
    assert not clean.drifted
    held_out = observe.observe(net, frames(100, 2)).taps
    net.plant = 0.6
    try:
        seen = observe.observe(net, frames(64, 3)).taps
        if given:
            from bnfold.drift import tier1

            tests = tier1.judge(seen.values, held_out.values, seen.sizes)[1]
            assert [test.significant for test in tests] == [False, False, True, True]
        else:
            result = bnfold.drift.check(net, frames(64, 3))
            assert result.findings[0].where.startswith("last.1[")
    finally:
        net.plant = 0.0


def drifted(name: str, effect: float, *by: str, channels: tuple[int, ...] = ()) -> LayerDrift:
    shifts = (-effect,) * len(channels)
    return LayerDrift(name, effect, 0.05, True, by, 2.0, 0.3, 0.001, channels, shifts)


def test_the_largest_of_the_later_layers_is_one_of_them() -> None:
    layers = (drifted("stem", 1.0, "shift"), drifted("body", 0.3, "shift"), drifted("last", 0.2, "spread"))
    tier = TierResult(1, True, True, "", 64, 100, 0.001, layers)
    (found,) = findings_of([tier], None, [], None, Reference(()), 32, [])
    assert "and in 2 later layers, up to 0.30 in body" in found.message


def test_frames_that_lie_closer_together_have_no_channel_to_blame(net: Net) -> None:
    """Seen by their spread alone: a channel by -0.01 deviations would be no news."""
    seen = observe.observe(net, frames(8, 1))
    taps = seen.taps
    tests = [
        LayerTest(0.01, 0.05, True, ("spread",), 2.0, 0.3, np.full(n, -0.01), (), 0.001) for n in taps.sizes
    ]
    layers = tiers._layers(tests, seen.reference, taps)
    assert [layer.channels for layer in layers] == [()] * 4
    tier = TierResult(1, True, True, "", 64, 100, 0.001, layers[:1])
    (found,) = findings_of([tier], None, [], None, seen.reference, 32, [])
    assert found.where == "stem.1"
    assert found.message.endswith("first here, in how far its frames lie apart")


def flatter(window: Array, by: float = 0.5) -> Array:
    """Less contrast about each frame's own level, which is where it was."""
    level = window.mean(axis=(2, 3), keepdims=True)
    return np.asarray(level + by * (window - level), dtype=np.float32)


@pytest.mark.parametrize("given", [False, True], ids=["tier 0", "tier 1"])
def test_second_moments_see_what_leaves_the_means(net: Net, given: bool) -> None:
    """The first layer is linear up to its border: its means stay, and what varies about them is less."""
    baseline = frames(80, 2) if given else None

    def check(window: Array, **options: Any) -> DriftResult:
        return bnfold.drift.check(net, window, baseline=baseline, **options)

    calm = check(frames(64, 1), second_moments=True)
    assert not calm.drifted
    assert [layer.name for layer in calm.tiers[0].layers] == [
        "stem.1", "stem.1^2", "body.1", "body.1^2", "last.1", "last.1^2", "neck.1",
    ]  # fmt: skip
    assert calm.tiers[0].detectable == pytest.approx(check(frames(64, 1)).tiers[0].detectable, rel=0.1)
    seen = check(flatter(frames(64, 1)), second_moments=True)
    assert seen.drifted
    first = seen.tiers[0].origin
    assert first is not None
    assert first.name == "stem.1^2"
    assert first.second_moments
    plain = {layer.name: layer for layer in check(flatter(frames(64, 1))).tiers[0].layers}
    assert not plain["stem.1"].significant
    finding = next(one for one in seen.findings if one.code == "BNF-A017")
    assert finding.where.startswith("stem.1^2")
    times = [1 + np.sqrt(2) * shift for shift in finding.evidence["shifts"]]
    assert times
    assert all(0.2 < time < 1 for time in times)  # 0.5^2 of what varies within a frame, all between frames
    assert "times that of training" in finding.message


def test_repeated_frames_are_counted_once(net: Net) -> None:
    slow = np.repeat(frames(10, 4), 8, axis=0)
    result = bnfold.drift.check(net, slow, baseline=frames(100, 2))
    assert (result.frames, result.effective_frames) == (80, 10)
    assert not result.drifted
    assert "BNF-D004" in codes(result)


def test_too_little_is_not_judged(net: Net) -> None:
    result = bnfold.drift.check(net, 0.2 * frames(7, 5))
    assert not result.judged
    assert not result.drifted
    assert result.passed
    assert codes(result) == ["BNF-D001"]
    same = bnfold.drift.check(net, np.repeat(0.2 * frames(1, 5), 100, axis=0))
    assert not same.judged
    assert "1 independent" in same.findings[0].message
    thin = bnfold.drift.check(net, frames(64, 1), baseline=frames(10, 2))
    assert not thin.judged
    assert "the baseline is worth 10" in thin.findings[0].message
    one = bnfold.drift.check(net, 0.2 * frames(64, 5), train_batch=1)
    assert not one.judged
    assert "training batch of 1" in one.findings[0].message


def test_given_blocks(net: Net) -> None:
    result = bnfold.drift.check(net, frames(64, 1), blocks=16)
    assert not result.judged
    assert (result.block, result.effective_frames) == (16, 4)


def test_frames_that_are_not_finite(net: Net) -> None:
    broken = frames(32, 1)
    broken[5, 0, 2, 2] = np.nan
    broken[9] = np.inf
    result = bnfold.drift.check(net, broken)
    assert result.drifted
    assert not result.passed
    first = result.findings[0]
    assert first.code == "BNF-D010"
    assert first.evidence["frames"] == [5, 9]
    assert not result.tiers[0].drifted  # the other 30 are as ever
    nothing = bnfold.drift.check(net, np.full((4, 3, 12, 12), np.nan, dtype=np.float32))
    assert nothing.drifted
    assert codes(nothing) == ["BNF-D010", "BNF-D001"]


def test_activations_that_are_not_finite(net: Net) -> None:
    huge = frames(32, 1)
    huge[7] = 3e38
    result = bnfold.drift.check(net, huge)
    found = [finding for finding in result.findings if finding.code == "BNF-D011"]
    assert [finding.where for finding in found] == ["stem.1"]
    assert found[0].evidence["frames"] == [7]
    assert result.drifted


def test_statistics_that_do_not_fit_held_out_frames(net: Net) -> None:
    """Window and baseline agree, and differ from the buffers: no drift, but the statistics are wrong."""
    net.stem[1].running_mean += 0.2
    try:
        result = bnfold.drift.check(net, frames(64, 1), baseline=frames(100, 2))
    finally:
        net.stem[1].running_mean -= 0.2
    assert not result.drifted
    assert result.findings[0].code == "BNF-D003"
    assert result.findings[0].where == "stem.1"
    assert "recalibrate" in result.findings[0].remedy


def test_other_classes_in_front_of_the_same_camera() -> None:
    """A network that only looks at its first pixels late: the hint needs quiet early layers."""
    from bnfold.drift.labels import moved

    distance, p = moved((40, 0, 0), (30, 35, 35))
    assert distance == pytest.approx(0.7)
    assert p == 0.001
    assert moved((10, 12, 10), (30, 35, 35))[1] > 0.2


# --- an artifact -----------------------------------------------------------------------------------------


class Monitored:
    """What an opened monitored artifact offers, computed by the module."""

    def __init__(self, net: Net, baseline: Array | None = None, role: str = "monitor") -> None:
        found = tap(net, frames(2, 0))
        layers = tuple(
            LayerReference(
                layer.name, layer.mean, layer.deviation, layer.positions, layer.momentum, layer.batches,
                "output", f"tap.{number}",
            )
            for number, layer in enumerate(found.reference.layers)
        )  # fmt: skip
        reference = Reference(layers)
        if baseline is not None:
            seen = tap(net, baseline)
            values = Taps.of(seen.means, seen.reference).values
            reference = Reference(layers, {}, Baseline.of(values))
        self._net = net
        self.manifest = {
            "name": "net", "target": "onnx", "role": role,
            "drift_reference": json.loads(json.dumps(reference.to_json())),
        }  # fmt: skip
        self.outputs = tuple(SimpleNamespace(name=name) for name in ("y", *(layer.tap for layer in layers)))

    def predict(self, frame: Array) -> dict[str, Array]:
        seen = tap(self._net, frame[None])
        assert seen.scores is not None
        taps = {f"tap.{n}": mean.astype(np.float32) for n, mean in enumerate(seen.means)}
        return {"y": seen.scores.astype(np.float32), **taps}


def test_an_artifact_gives_the_same_verdict_as_its_module(net: Net) -> None:
    for window in (frames(32, 1), 0.5 * frames(32, 1)):
        ours = bnfold.drift.check(net, window, baseline=frames(60, 2))
        theirs = bnfold.drift.check(Monitored(net), window, baseline=frames(60, 2))
        assert ours.drifted == theirs.drifted
        assert ours.tiers[0].p == theirs.tiers[0].p
        assert codes(ours) == codes(theirs)
        for a, b in zip(ours.tiers[1].layers, theirs.tiers[1].layers, strict=True):
            assert a.effect == pytest.approx(b.effect, abs=1e-5)
            assert a.channels == b.channels
        assert ours.predictions == theirs.predictions


def test_a_recorded_baseline_decides_as_a_given_one(net: Net) -> None:
    artifact = Monitored(net, frames(100, 2))
    for window, drifted in ((frames(32, 1), False), (0.6 * frames(32, 1), True)):
        recorded = bnfold.drift.check(artifact, window)
        assert [tier.tier for tier in recorded.tiers] == [1, 0]
        assert recorded.drifted == drifted
        given = bnfold.drift.check(net, window, baseline=frames(100, 2))
        assert recorded.tiers[0].p == pytest.approx(given.tiers[0].p, abs=0.05)


def refused(call: Any, kind: type[BnfoldError], code: str) -> BnfoldError:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def test_a_clean_artifact_is_refused_with_the_way_out(net: Net) -> None:
    error = refused(
        lambda: bnfold.drift.check(Monitored(net, role="clean"), frames(16, 0)), UsageError, "BNF-U140"
    )
    assert "bnfold convert" in error.fix
    assert "--monitor" in error.fix
    assert "net.monitor.onnx" in error.fix


def test_a_reference_to_an_output_that_is_not_there(net: Net) -> None:
    artifact = Monitored(net)
    artifact.outputs = artifact.outputs[:-1]
    error = refused(lambda: bnfold.drift.check(artifact, frames(16, 0)), ArtifactError, "BNF-M030")
    assert "neck.1" in error.what


def wrong() -> Iterator[tuple[Any, dict[str, Any], type[BnfoldError], str]]:
    yield frames(16, 0), {"train_batch": 0}, UsageError, "BNF-U143"
    yield frames(16, 0), {"blocks": 0}, UsageError, "BNF-U143"
    yield frames(16, 0), {"margin": float("nan")}, UsageError, "BNF-U143"
    yield frames(0, 0), {}, InputError, "BNF-R031"
    yield "frames", {}, InputError, "BNF-R031"
    yield frames(16, 0)[:, :2], {}, InputError, "BNF-R030"
    yield frames(16, 0), {"baseline": frames(30, 0)[..., :2, :2][:, :1]}, InputError, "BNF-R030"


@pytest.mark.parametrize(("window", "options", "kind", "code"), list(wrong()))
def test_what_cannot_be_used(
    net: Net, window: Any, options: dict[str, Any], kind: type[BnfoldError], code: str
) -> None:
    refused(lambda: bnfold.drift.check(net, window, **options), kind, code)


def test_neither_artifact_nor_module() -> None:
    refused(lambda: bnfold.drift.check(3, frames(16, 0)), UsageError, "BNF-U142")
    refused(lambda: bnfold.drift.check(nn.Linear(3, 3), np.ones((9, 3))), UsageError, "BNF-U141")
