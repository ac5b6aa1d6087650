"""The artifacts, and what is known about them. All tests in this folder need numpy, pytest and bnfold only.

On a device `BNFOLD_TEST_ARTIFACTS` names the folder that artifacts.py has made elsewhere. On a machine with
torch it need not be set: then the folder is made here, once per session.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from bnfold_cli.main import main
from numpy.typing import NDArray

import bnfold
from bnfold import manifest
from bnfold.runtime import Model

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in tests/conftest.py, which is not on a device
    signal.signal(signal.SIGINT, signal.default_int_handler)

Array: TypeAlias = NDArray[Any]

VARIABLE = "BNFOLD_TEST_ARTIFACTS"
INTERPRETERS = {
    "onnxruntime": ("onnxruntime", "onnx"),
    "ai_edge_litert": ("ai-edge-litert", "tflite"),
    "tflite_runtime": ("tflite-runtime", "tflite"),
}
INSTALLED = [name for module, (name, _) in INTERPRETERS.items() if find_spec(module) is not None]
FORMATS = sorted({target for name, target in INTERPRETERS.values() if name in INSTALLED})
NETWORKS = ("mnist_mlp", "mnist_mobilenet", "sensor")
MAKER = Path(__file__).with_name("artifacts.py")
# the Makefile copies these tests away from the checkout, next to the artifacts
ON_DEVICE = VARIABLE in os.environ and not (MAKER.parents[2] / "pyproject.toml").exists()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``artifact``: every network in every format that runs here; ``target``: every format."""
    if "artifact" in metafunc.fixturenames:
        names = [f"{network}.{target}" for network in NETWORKS for target in FORMATS]
        metafunc.parametrize("artifact", names, scope="session")
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", FORMATS, scope="session")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What artifacts.py makes."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE]).resolve(strict=True)
    if find_spec("torch") is None:
        pytest.skip(f"no torch to make the artifacts with, and {VARIABLE} names none")
    made = tmp_path_factory.mktemp("artifacts")
    done = subprocess.run([sys.executable, MAKER, made], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


@dataclass(frozen=True)
class Case:
    """An artifact, its frames and the answers: in float64, one row per frame, in the order of the outputs."""

    name: str
    path: Path
    model: Model
    frames: list[Any]
    answers: dict[str, Array]
    tolerance: dict[str, float]
    best: list[int] | None

    def check(self, outputs: dict[str, Array], index: int) -> None:
        """Names, shape, dtype and values of the answer to one frame."""
        assert list(outputs) == list(self.answers)
        for name, values in outputs.items():
            expected = self.answers[name][index : index + 1]
            assert values.dtype == np.float32
            assert values.shape == expected.shape
            error = np.abs(values.astype(np.float64) - expected).max()
            assert error <= self.tolerance[name], (self.name, name, index, error)  # a NaN is not below it


@pytest.fixture(scope="session")
def case_of(folder: Path) -> Callable[[str], Case]:
    """``case_of("sensor.onnx")``; each is opened once."""
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    opened: dict[str, Case] = {}

    def find(name: str) -> Case:
        if name not in opened:
            said, path = expected[name], folder / name
            model = bnfold.open(path)
            with np.load(folder / said["frames"]) as arrays:
                if "frames" in arrays:
                    frames = list(arrays["frames"])
                else:
                    names = [spec.name for spec in model.inputs]
                    rows = zip(*(arrays[name] for name in names), strict=True)
                    frames = [dict(zip(names, row, strict=True)) for row in rows]
            assert {spec.name for spec in model.outputs} == set(said["outputs"])
            answers = {spec.name: np.load(folder / said["outputs"][spec.name]) for spec in model.outputs}
            opened[name] = Case(name, path, model, frames, answers, said["tolerance"], said["top1"])
        return opened[name]

    return find


@pytest.fixture(scope="session")
def case(artifact: str, case_of: Callable[[str], Case]) -> Case:
    """Every artifact in turn."""
    return case_of(artifact)


@pytest.fixture(scope="session")
def digits(target: str, case_of: Callable[[str], Case]) -> Case:
    """Grey 28x28 frames, pixel / 255 -> ten labelled scores; in every format in turn."""
    return case_of(f"mnist_mobilenet.{target}")


@pytest.fixture(scope="session")
def sensor(target: str, case_of: Callable[[str], Case]) -> Case:
    """series (1, 3, 32) and ambient (1, 2) -> scores, aux.0 and aux.1; in every format in turn."""
    return case_of(f"sensor.{target}")


@pytest.fixture
def altered(tmp_path: Path) -> Callable[[Path, Callable[[dict[str, Any]], object]], Path]:
    """``altered(path, change)``: a copy whose manifest went through ``change`` and is sealed again."""

    def make(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
        document = manifest.read(path)
        change(document)
        copy = tmp_path / path.name
        copy.write_bytes(manifest.embed(manifest.strip(path.read_bytes()), document))
        return copy

    return make


@dataclass(frozen=True)
class Result:
    """What one call of the command line came to."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output, which has to be one JSON document and nothing else."""
        document: dict[str, Any] = json.loads(self.out, parse_constant=lambda name: pytest.fail(name))
        return document


Cli: TypeAlias = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``cli("run", path)`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return call
