"""Two inputs by name, a dictionary with a nested tuple, and no image: from checkpoint to answers by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bnfold_cli.main import main
from numpy.typing import NDArray
from safetensors.torch import save_file

import bnfold
from tests.verify.networks import Sensor, built

OUTPUTS = {"scores": (1, 4), "aux.0": (1, 8, 14), "aux.1": (1, 1)}
MODEL = f"{Path(__file__).parents[1] / 'verify' / 'networks.py'}:Sensor"


def recorded(count: int = 24, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """A drifting signal of three axes and a temperature, the first axis counting the frames."""
    generator = np.random.default_rng(seed)
    series = np.cumsum(generator.standard_normal((count, 3, 32)), axis=2) * 0.3
    ambient = 20 + 5 * generator.standard_normal((count, 2))
    return {"series": series.astype(np.float32), "ambient": ambient.astype(np.float32)}


def expected(frames: dict[str, NDArray[np.float32]], index: int) -> dict[str, NDArray[np.float32]]:
    with torch.no_grad():
        result = built(Sensor)(*(torch.tensor(frames[name][index][None]) for name in ("series", "ambient")))
    return {
        "scores": result["scores"].numpy(),
        "aux.0": result["aux"][0].numpy(),
        "aux.1": result["aux"][1].numpy(),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The command's folder and exit status; checkpoint, frames and both artifacts are in it."""
    folder = tmp_path_factory.mktemp("sensor")
    save_file(built(Sensor).state_dict(), folder / "sensor.safetensors")
    np.savez(folder / "frames.npz", **recorded())
    status = main(
        [
            *("convert", str(folder / "sensor.safetensors"), "--model", MODEL, "--to", "onnx,tflite"),
            # by name, so in any order
            *("--input", "ambient=1x2", "--input", "series=1x3x32"),
            *("--samples", str(folder / "frames.npz"), "-o", str(folder)),
        ]
    )
    return folder, status


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_it_converts_and_answers_by_name(made: tuple[Path, int], target: str) -> None:
    folder, status = made
    assert status == 0
    model = bnfold.open(folder / f"sensor.{target}")
    assert [(spec.name, spec.shape) for spec in model.inputs] == [
        ("series", (1, 3, 32)),
        ("ambient", (1, 2)),
    ]
    assert {spec.name: spec.shape for spec in model.outputs} == OUTPUTS
    assert [entry["status"] for entry in model.manifest["batch_norms"]] == ["folded", "folded"]
    frames = recorded()
    for index in (0, 7, 23):
        frame = {"ambient": frames["ambient"][index], "series": frames["series"][index]}
        answer, right = model.predict(frame), expected(frames, index)
        assert set(answer) == set(right)
        for name, value in right.items():
            assert answer[name].shape == value.shape
            assert np.abs(answer[name] - value).max() <= 1e-4 * max(1.0, np.abs(value).max())


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_it_verifies_on_npz_and_each_output_has_its_own_bound(made: tuple[Path, int], target: str) -> None:
    folder, _ = made
    network = built(Sensor)
    results = bnfold.verify(network, folder / f"sensor.{target}", folder / "frames.npz")
    assert [result.output for result in results] == list(OUTPUTS)
    assert all(result.passed and result.frames == 24 for result in results)
    assert len({result.tolerance for result in results}) == 3


def test_the_command_verifies_a_checkpoint_with_an_artifact(
    made: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = made
    status = main(
        [
            *("verify", str(folder / "sensor.safetensors"), str(folder / "sensor.onnx"), "--model", MODEL),
            *("--samples", str(folder / "frames.npz"), "--format", "json"),
        ]
    )
    document = json.loads(capsys.readouterr().out)
    assert (status, document["passed"]) == (0, True)
    assert [row["output"] for row in document["parity"]] == list(OUTPUTS)


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_the_command_runs_frames_and_the_self_test(
    made: tuple[Path, int], target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = made
    artifact = str(folder / f"sensor.{target}")
    assert main(["run", artifact, str(folder / "frames.npz"), "--format", "json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert len(document["frames"]) == 24
    assert [entry["output"] for entry in document["frames"][0]["outputs"]] == list(OUTPUTS)
    assert main(["run", artifact, "--self-test"]) == 0


def test_a_single_input_network_takes_npy(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3), torch.nn.BatchNorm1d(4)).eval()
    np.save(tmp_path / "series.npy", recorded()["series"])
    result = bnfold.convert(
        network,
        (torch.zeros(1, 3, 32),),
        output=tmp_path,
        name="one",
        samples=tmp_path / "series.npy",
    )
    assert result.passed
    assert {(row.frames, row.frames_source) for row in result.parity} == {(24, "samples")}
    with torch.no_grad():
        right = network(torch.tensor(recorded()["series"][3][None])).numpy()
    answer = bnfold.open(tmp_path / "one.onnx").predict(recorded()["series"][3])
    assert np.abs(answer["output"] - right).max() < 1e-5


@pytest.mark.parametrize("missing", ["series", "ambient"])
def test_frames_without_one_of_the_inputs_are_refused(missing: str, tmp_path: Path) -> None:
    frames = recorded()
    del frames[missing]
    example = (torch.zeros(1, 3, 32), torch.zeros(1, 2))
    with pytest.raises(bnfold.BnfoldError) as caught:
        bnfold.convert(built(Sensor), example, output=tmp_path, samples=frames)
    assert caught.value.code == "BNF-V022"
    assert list(tmp_path.iterdir()) == []
