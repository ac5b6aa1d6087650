"""convert in a lower precision: the same interfaces, a gate that stops, and a manifest that tells."""

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
from bnfold.verify import compare
from tests.verify.networks import CLASSES, SHAPE, Sensor, Small, built, frames

EXAMPLE = (torch.zeros(SHAPE),)
SHARES = {"fp16": 0.005, "int8": 0.25}


def convert(output: Path, module: nn.Module | None = None, **options: Any) -> ConversionResult:
    options = {"samples": frames(64), "name": "net", "to": ("onnx", "tflite"), **options}
    return bnfold.convert(module or built(Small), EXAMPLE, output=output, **options)


@pytest.fixture(scope="module", params=["fp16", "int8"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, ConversionResult]:
    folder = tmp_path_factory.mktemp(request.param)
    # the network is drawn, not trained: its five scores lie close together
    return request.param, folder, convert(folder, precision=request.param, min_agreement=0.85)


def test_the_files_pass_and_say_their_precision(made: tuple[str, Path, ConversionResult]) -> None:
    precision, _, result = made
    assert result.passed
    assert [(a.target, a.path.name, a.precision) for a in result.artifacts] == [
        ("onnx", "net.onnx", precision), ("tflite", "net.tflite", precision),
    ]  # fmt: skip
    for artifact in result.artifacts:
        document = manifest.read(artifact.path)
        assert document["precision"] == precision
        rounding = document["quantisation"]
        assert rounding["min_agreement"] == 0.85
        assert rounding["tolerance"] == SHARES[precision]
        assert rounding["calibration"] == (
            None if precision == "fp16" else {"source": "samples", "frames": 64}
        )
        assert [row["candidate"] for row in rounding["agreement"]] == [artifact.target]


def test_inputs_and_outputs_are_the_float32_files_own(
    made: tuple[str, Path, ConversionResult], tmp_path: Path
) -> None:
    _, folder, _ = made
    convert(tmp_path)
    for target in ("onnx", "tflite"):
        ours, theirs = (manifest.read(place / f"net.{target}") for place in (folder, tmp_path))
        assert (ours["inputs"], ours["outputs"]) == (theirs["inputs"], theirs["outputs"])
        assert "quantisation" not in theirs


def test_the_numbers_are_those_that_the_files_give(made: tuple[str, Path, ConversionResult]) -> None:
    """Counted here on its own, not with verify's means."""
    precision, folder, result = made
    inputs, network = frames(64), built(Small).double()
    with torch.no_grad():
        exact = network(torch.from_numpy(inputs).double()).numpy()
    for target in ("onnx", "tflite"):
        model = bnfold.open(folder / f"net.{target}")
        answers = np.concatenate([model.predict_raw(frame[None])["output"] for frame in inputs]).astype(float)
        (row,) = [one for one in result.agreement if one.candidate == target]
        assert (row.kind, row.counted, row.precision) == ("top-1", 64, precision)
        assert row.share == np.mean(answers.argmax(1) == exact.argmax(1))
        noise = ((answers - exact) ** 2).sum()
        assert row.snr_db == pytest.approx(10 * np.log10((exact**2).sum() / noise), rel=1e-6)
        cosine = (answers * exact).sum() / np.sqrt((answers**2).sum() * (exact**2).sum())
        assert row.cosine == pytest.approx(cosine, rel=1e-9)
        (parity,) = [one for one in result.parity if one.candidate == target]
        assert parity.max_abs_error == pytest.approx(np.abs(answers - exact).max(), rel=1e-6)
        assert parity.tolerance == pytest.approx(SHARES[precision] * np.ptp(exact), rel=1e-6)
        assert row.snr_db > (55 if precision == "fp16" else 20)


def test_the_losses_name_layers_and_add_up(made: tuple[str, Path, ConversionResult]) -> None:
    _, _, result = made
    for target in ("onnx", "tflite"):
        losses = [loss for loss in result.losses if loss.target == target]
        assert {"conv1", "conv2", "fc"} & {loss.layer for loss in losses}
        assert [loss.share for loss in losses] == sorted((loss.share for loss in losses), reverse=True)
        assert 0 < sum(loss.share for loss in losses) <= 1 + 1e-9


def test_the_self_test_passes_and_notices_another_answer(made: tuple[str, Path, ConversionResult]) -> None:
    precision, folder, result = made
    for target in ("onnx", "tflite"):
        (check,) = bnfold.open(folder / f"net.{target}").self_test()
        assert check.passed
        (parity,) = [one for one in result.parity if one.candidate == target]
        spread = parity.tolerance / SHARES[precision]
        assert check.tolerance == pytest.approx((0.005 if precision == "fp16" else 0.05) * spread)


def test_verify_holds_a_file_to_its_own_gate(
    made: tuple[str, Path, ConversionResult], tmp_path: Path
) -> None:
    precision, folder, _ = made
    path = folder / "net.onnx"
    comparison = compare(built(Small), path, frames(64))
    assert comparison.passed
    assert [row.precision for row in comparison.agreement] == [precision]
    other = compare(built(Small, seed=1), path, frames(64))  # another network's checkpoint
    assert not other.passed
    assert {found.code for found in other.findings if found.severity == "error"} >= {"BNF-V040"}
    convert(tmp_path)
    between = compare(tmp_path / "net.onnx", path, frames(64))
    assert between.passed
    assert between.agreement[0].share >= 0.85


def test_the_same_bytes_from_run_to_run(made: tuple[str, Path, ConversionResult], tmp_path: Path) -> None:
    precision, folder, _ = made
    convert(tmp_path, precision=precision, min_agreement=0.85)
    for name in ("net.onnx", "net.tflite"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


class Fragile(nn.Module):
    """Two classes whose scores differ in what eight bits round away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return 30 * x.mean(1, keepdim=True) + x


def test_a_file_below_the_gate_is_rejected_and_the_layers_are_named(tmp_path: Path) -> None:
    result = convert(tmp_path, built(Fragile), precision="int8", to=("onnx",))
    assert not result.passed
    assert result.exit_status == 1
    assert [a.path.name for a in result.artifacts] == ["net.onnx.rejected"]
    (found,) = [one for one in result.findings if one.code == "BNF-V040"]
    assert found.severity == "error"
    assert found.evidence["agreement"] < found.evidence["min_agreement"] == 0.99
    assert found.evidence["losses"][0]["layer"] in found.message
    # the same file passes for whoever says that so much is enough
    assert convert(tmp_path, built(Fragile), precision="int8", to=("onnx",), min_agreement=0.01).passed


class Answers(Small):
    """A place for each frame and an answer for each place, beside the numbers that these are made of."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return {"best": x.flatten(1).argmax(1), "heat": x, "mask": x > x.mean((2, 3), keepdim=True)}


def test_integers_are_ruled_by_how_many_are_equal_and_by_nothing_else(tmp_path: Path) -> None:
    """One wrong frame is all of its argmax, and is no more than one frame."""
    inputs, network = frames(64), built(Answers).double()
    with torch.no_grad():
        exact = {name: value.numpy() for name, value in network(torch.from_numpy(inputs).double()).items()}
    for least in (0.5, 0.9999):
        result = convert(tmp_path, built(Answers), precision="int8", min_agreement=least)
        rejected = []
        for artifact in result.artifacts:
            target, passed = artifact.target, True
            model = bnfold.open(artifact.path) if artifact.path.suffix != ".rejected" else None
            if model is not None:
                checks = {check.output: check for check in model.self_test()}
                assert all(check.passed for check in checks.values())
                # a share of elements: as many as of a map may differ between interpreters, and no lone answer
                assert checks["mask"].tolerance == checks["best"].tolerance == 0.05
            for name in ("best", "mask"):
                (row,) = [o for o in result.agreement if (o.candidate, o.output) == (target, name)]
                (parity,) = [o for o in result.parity if (o.candidate, o.output) == (target, name)]
                if model is not None:  # counted here on its own
                    answers = np.concatenate([model.predict_raw(frame[None])[name] for frame in inputs])
                    assert row.share == np.mean(answers == exact[name])
                assert (parity.max_abs_error, parity.tolerance) == (1 - row.share, 1 - least)
                assert parity.passed == row.passed == (row.share >= least)
                assert "exact" not in parity.to_json()
                passed = passed and row.passed
            assert (artifact.path.suffix == ".rejected") != passed
            rejected += [] if passed else [target]
        if least == 0.5:
            assert result.passed
            shares = [row.share for row in result.agreement if row.output != "heat"]
            assert 0.8 < min(shares) < 1  # some place is another one
        else:
            assert rejected == ["onnx", "tflite"]
        errors = [found for found in result.findings if found.severity == "error"]
        assert {found.code for found in errors} == ({"BNF-V040"} if rejected else set())
        assert result.passed == (not rejected)


def test_several_inputs_and_outputs_are_judged_each(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    samples = {
        "series": np.cumsum(generator.standard_normal((48, 3, 32)), axis=2).astype(np.float32),
        "ambient": (20 + 5 * generator.standard_normal((48, 2))).astype(np.float32),
    }
    result = bnfold.convert(
        built(Sensor), (torch.zeros(1, 3, 32), torch.zeros(1, 2)), output=tmp_path, name="s",
        to=("onnx", "tflite"), samples=samples, precision="int8", min_agreement=0.9,
    )  # fmt: skip
    kinds = {(row.candidate, row.output): row.kind for row in result.agreement}
    assert kinds == {
        (target, output): kind
        for target in ("onnx", "tflite")
        for output, kind in (("scores", "top-1"), ("aux.0", "values"), ("aux.1", "values"))
    }
    assert result.passed, [found.message for found in result.findings]


def test_a_symbolic_batch_stays_symbolic(tmp_path: Path) -> None:
    for precision in ("fp16", "int8"):
        result = convert(
            tmp_path, precision=precision, to=("onnx",), dynamic_batch=True, min_agreement=0.8, name=precision
        )
        assert result.passed, [found.message for found in result.findings]
        model = bnfold.open(result.artifacts[0].path)
        together = model.predict_raw(frames(7))["output"]
        alone = np.concatenate([model.predict_raw(frame[None])["output"] for frame in frames(7)])
        np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(alone).max())


def test_the_monitored_file_has_float16_weights_too(tmp_path: Path) -> None:
    result = convert(tmp_path, precision="fp16", monitor=True, to=("tflite",), min_agreement=0.9)
    assert result.passed
    assert [(a.role, a.precision) for a in result.artifacts] == [("clean", "fp16"), ("monitor", "fp16")]
    drifted = bnfold.drift.check(tmp_path / "net.monitor.tflite", frames(64, seed=11) + 3)
    assert drifted.drifted


@pytest.mark.parametrize(("count", "warned"), [(1, True), (31, True), (32, False)])
def test_a_calibration_on_too_few_frames_is_a_warning(count: int, warned: bool, tmp_path: Path) -> None:
    result = convert(tmp_path, precision="int8", to=("onnx",), samples=frames(count), min_agreement=0.5)
    found = [one for one in result.findings if one.code == "BNF-V042"]
    told = [(one.severity, one.evidence["given"]) for one in found]
    assert told == ([("warning", count)] if warned else [])
    if warned:
        assert f"from {count} frame" in found[0].message
    for other in ({"precision": "fp16"}, {"precision": "fp32"}):
        result = convert(tmp_path, to=("onnx",), samples=frames(1), **other)
        assert "BNF-V042" not in {one.code for one in result.findings}


def test_weights_out_of_range_stop_the_conversion(tmp_path: Path) -> None:
    module = built(Small)
    with torch.no_grad():
        module.conv2.weight[0, 0] = 1e6
    with pytest.raises(bnfold.errors.ExportError) as caught:
        convert(tmp_path, module, precision="fp16", to=("onnx",))
    assert caught.value.code == "BNF-E050"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network whose statistics are those of the frames, as after training."""
    return bnfold.recalibrate(built(Small), [torch.from_numpy(frames(256, seed=8))], sequential=True).module


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_without_frames_ranges_come_from_the_population_statistics(
    target: str, trained: nn.Module, tmp_path: Path
) -> None:
    result = convert(tmp_path, trained, precision="int8", to=(target,), samples=None)
    assert result.passed, [found.message for found in result.findings]
    document = manifest.read(tmp_path / f"net.{target}")
    assert document["quantisation"]["calibration"] == {"source": "population statistics", "frames": 24}
    assert document["quantisation"]["min_agreement"] == 0.98
    unseen = compare(trained, tmp_path / f"net.{target}", frames(200, seed=21))
    assert unseen.passed or unseen.agreement[0].share > 0.9  # drawn weights: many near ties
    assert unseen.agreement[0].snr_db > 20
    again = tmp_path / "again"
    convert(again, trained, precision="int8", to=(target,), samples=None)
    assert (again / f"net.{target}").read_bytes() == (tmp_path / f"net.{target}").read_bytes()


def test_int8_without_frames_or_statistics_is_refused(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    with pytest.raises(bnfold.errors.UsageError) as caught:
        convert(tmp_path, plain, precision="int8", to=("onnx",), samples=None)
    assert caught.value.code == "BNF-U152"
    assert list(tmp_path.iterdir()) == []


class Wide(nn.Module):
    """A MB of weights, small and large layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 128, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(128)
        self.depthwise = nn.Conv2d(128, 128, 3, groups=128, bias=False)
        self.bn3 = nn.BatchNorm2d(128)
        self.fc1 = nn.Linear(512, 320)
        self.fc2 = nn.Linear(320, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.depthwise(x)))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.5), ("int8", 0.25)])
def test_the_files_are_as_small_as_the_precision_promises(
    precision: str, share: float, tmp_path: Path
) -> None:
    module = built(Wide)
    floats = sum(parameter.numel() * 4 for parameter in module.parameters())
    assert floats > 900_000
    # above 256 kB ai-edge-quantizer moves weights behind the flatbuffer, where old interpreters do not look
    result = convert(tmp_path, module, precision=precision, min_agreement=0.8)
    assert result.passed, [found.message for found in result.findings]
    for artifact in result.artifacts:
        size = manifest.read(artifact.path)["integrity"]["model_bytes"]
        assert size <= share * floats + 64_000
