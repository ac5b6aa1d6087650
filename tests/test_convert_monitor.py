"""convert with monitor: a second file, the same answers, and the reference that the drift checks read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bnfold
from bnfold import manifest
from bnfold.conversion import ConversionResult
from bnfold.drift import Reference, Stream
from bnfold.errors import UsageError
from bnfold.statistics.taps import tap
from tests.verify.networks import SHAPE, Small, built, frames

EXAMPLE = (torch.zeros(SHAPE),)


def convert(output: Path, module: nn.Module | None = None, **options: Any) -> ConversionResult:
    options = {"samples": frames(24), "name": "net", **options}
    return bnfold.convert(module or built(Small), EXAMPLE, output=output, **options)


@pytest.fixture(scope="module", params=["onnx", "tflite"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ConversionResult, Path, str]:
    folder = tmp_path_factory.mktemp("monitor")
    return convert(folder, to=(request.param,), monitor=True), folder, request.param


def test_two_files_and_the_clean_one_is_as_ever(
    made: tuple[ConversionResult, Path, str], tmp_path: Path
) -> None:
    result, folder, target = made
    assert result.passed
    assert [(a.role, a.path.name) for a in result.artifacts] == [
        ("clean", f"net.{target}"), ("monitor", f"net.monitor.{target}"),
    ]  # fmt: skip
    assert sorted(p.name for p in folder.iterdir()) == [f"net.monitor.{target}", f"net.{target}"]
    convert(tmp_path, to=(target,))
    assert (tmp_path / f"net.{target}").read_bytes() == (folder / f"net.{target}").read_bytes()
    roles = {(row.candidate, row.role) for row in result.parity}
    assert roles == {("fold", "clean"), (target, "clean"), (target, "monitor")}


def test_the_taps_are_what_the_module_gives_there(made: tuple[ConversionResult, Path, str]) -> None:
    _, folder, target = made
    model = bnfold.open(folder / f"net.monitor.{target}")
    reference = Reference.from_json(model.manifest["drift_reference"])
    assert model.manifest["role"] == "monitor"
    module = built(Small)
    seen: dict[str, np.ndarray] = {}
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.register_forward_hook(
                lambda _, given, y, name=name: seen.__setitem__(
                    name, y.reshape(*y.shape[:2], -1).mean(2).detach().numpy()
                )
            )
    frame = frames(1, seed=5)[0]
    with torch.no_grad():
        answer = module(torch.from_numpy(frame[None] if frame.ndim == 3 else frame))
    outputs = model.predict_raw(frame[None] if frame.ndim == 3 else frame)
    np.testing.assert_allclose(outputs["output"], answer.numpy(), atol=1e-4)
    assert {layer.name for layer in reference.layers} | set(reference.left_out) == set(seen)
    for layer in reference.layers:
        np.testing.assert_allclose(outputs[layer.tap], seen[layer.name], atol=1e-4, rtol=1e-4)


def test_the_reference_is_in_population_terms(made: tuple[ConversionResult, Path, str]) -> None:
    _, folder, target = made
    module = built(Small)
    layers = dict(module.named_modules())
    for role in ("", ".monitor"):
        recorded = manifest.read(folder / f"net{role}.{target}")["drift_reference"]
        reference = Reference.from_json(recorded)
        assert (reference.baseline is not None) == bool(role)
        for layer in reference.layers:
            bn: Any = layers[layer.name]
            spread = bn.weight.abs() * (bn.running_var / (bn.running_var + bn.eps)).sqrt()
            np.testing.assert_allclose(layer.mean, bn.bias.detach().numpy(), rtol=1e-6)
            np.testing.assert_allclose(layer.deviation, spread.detach().numpy(), rtol=1e-6)
            assert layer.momentum == bn.momentum
            assert bool(layer.tap) == bool(role)


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_second_moments_on_request(tmp_path: Path, target: str) -> None:
    """The artifact gives what the module gives, and the same verdict."""
    assert convert(tmp_path, to=(target,), monitor=True, second_moments=True).passed
    model = bnfold.open(tmp_path / f"net.monitor.{target}")
    reference = Reference.from_json(model.manifest["drift_reference"])
    assert reference.baseline is not None
    module = built(Small)
    window = np.concatenate([f if f.ndim == 4 else f[None] for f in frames(30, seed=5)])
    expected = tap(module, window, second_moments=True)
    names = [layer.name for layer in expected.reference.layers]
    squares = [layer for layer in reference.layers if layer.moment == 2]
    assert squares
    for layer in reference.layers:
        twin = expected.reference.layers[names.index(layer.name)]
        assert np.array_equal(layer.mean, twin.mean)
        assert np.array_equal(layer.deviation, twin.deviation)
        got = np.concatenate([model.predict_raw(frame[None])[layer.tap] for frame in window[:4]])
        np.testing.assert_allclose(got, expected.means[names.index(layer.name)][:4], rtol=1e-3, atol=1e-4)
    for frames_ in (window, 0.5 * window):
        ours = bnfold.drift.check(module, frames_, second_moments=True)
        theirs = bnfold.drift.check(model, frames_)
        by_name = {layer.name: layer for layer in ours.tiers[-1].layers}
        for layer in theirs.tiers[-1].layers:
            twin = by_name[layer.name]
            assert layer.effect == pytest.approx(twin.effect, rel=1e-3, abs=1e-4)
    stream = Stream(model)  # watches the means alone
    for frame in window:
        stream.predict(frame)
    assert [layer.name for layer in stream.monitor.state.scale.layers] == [
        layer.name for layer in reference.layers if layer.moment == 1
    ]


def test_second_moments_are_of_a_monitored_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        convert(tmp_path, second_moments=True)
    assert caught.value.code == "BNF-U182"
    assert list(tmp_path.iterdir()) == []


def test_without_samples_there_is_no_baseline(tmp_path: Path) -> None:
    convert(tmp_path, samples=None, monitor=True)
    assert manifest.read(tmp_path / "net.monitor.onnx")["drift_reference"]["baseline"] is None


def test_a_symbolic_batch_is_monitored_too(tmp_path: Path) -> None:
    assert convert(tmp_path, monitor=True, dynamic_batch=True).passed
    model = bnfold.open(tmp_path / "net.monitor.onnx")
    batch = np.concatenate([f if f.ndim == 4 else f[None] for f in frames(3)])
    tap = Reference.from_json(model.manifest["drift_reference"]).layers[0].tap
    several = model.predict_raw(batch)[tap]
    alone = model.predict_raw(batch[1:2])[tap]
    np.testing.assert_allclose(several[1:2], alone, atol=1e-5)


def test_several_frames_a_call_are_refused(tmp_path: Path) -> None:
    """Neither drift nor monitor could use the file."""
    batch = (torch.zeros(4, *SHAPE[1:]),)
    with pytest.raises(UsageError) as caught:
        bnfold.convert(built(Small), batch, output=tmp_path, name="net", samples=frames(48), monitor=True)
    assert caught.value.code == "BNF-U148"
    assert "4 frames" in caught.value.what
    assert list(tmp_path.iterdir()) == []
    assert bnfold.convert(built(Small), batch, output=tmp_path, name="net", samples=frames(48)).passed


def test_nothing_to_monitor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        convert(tmp_path, nn.Conv2d(3, 4, 3), monitor=True)
    assert caught.value.code == "BNF-U092"
    assert list(tmp_path.iterdir()) == []


def test_a_clean_file_without_a_batch_norm_has_no_reference(tmp_path: Path) -> None:
    convert(tmp_path, nn.Conv2d(3, 4, 3))
    assert manifest.read(tmp_path / "net.onnx")["drift_reference"] is None
