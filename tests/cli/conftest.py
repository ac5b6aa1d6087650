"""A command line to call, and artifacts and checkpoints small enough to know their answers by heart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bnfold_cli.main import main

from bnfold import manifest


@dataclass(frozen=True)
class Result:
    """What one call came to."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``cli("run", "a.onnx")`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def shell() -> Cli:
    """The same in a process of its own; ``code`` runs first in it."""

    def call(*arguments: object, code: str = "", cwd: Path | None = None, **environment: str) -> Result:
        program = f"{code}\nfrom bnfold_cli.main import entry\nentry()"
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **environment},
            timeout=120,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


def _document(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "schema": 1, "bnfold": "0.1.0", "name": "halves", "target": "onnx", "role": "clean",
        "precision": "fp32", "source": {"name": "halves.pt", "sha256": "0" * 64, "format": "torch"},
        "libraries": {"torch": "2.13.0"}, "inputs": inputs, "outputs": outputs, "labels": None,
        "batch_norms": [], "parity": [], "noise_floor": {}, "runs_on": [], "drift_reference": None,
        "golden": None, **more,
    }  # fmt: skip


def _onnx(
    nodes: list[Any], inputs: dict[str, list[int]], outputs: dict[str, list[int]], weights: Any
) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a grey 2x4 frame: the sum of the left half's pixels over 255, the right half's, and 0.5."""
    from onnx import helper

    from bnfold.runtime import golden

    nodes = [
        helper.make_node("Flatten", ["in0"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["out0"]),
    ]
    weights = {
        "w": np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]] * 2, dtype=np.float32),
        "b": np.array([0, 0, 0.5], dtype=np.float32),
    }
    data = _onnx(nodes, {"in0": [1, 1, 2, 4]}, {"out0": [1, 3]}, weights)
    how = {"layout": "NCHW", "color": "gray", "resize": "stretch", "scale": 1 / 255, "mean": [0.0]}
    how["std"] = [1.0]
    frame = np.full((1, 1, 2, 4), 0.25, dtype=np.float32)
    answer = np.array([[1.0, 1.0, 0.5]], dtype=np.float32)
    document = _document(
        [{"name": "image", "tensor": "in0", "shape": [1, 1, 2, 4], "dtype": "float32", "normalisation": how}],
        [{"name": "output", "tensor": "out0", "shape": [1, 3], "dtype": "float32"}],
        labels=["left", "right", "neither"],
        noise_floor={"output": 1e-7},
        golden=golden.record({"image": frame}, {"output": answer}, {"output": 1e-6}),
    )
    path = tmp_path_factory.mktemp("halves") / "halves.onnx"
    path.write_bytes(manifest.embed_onnx(data, document))
    return path


@pytest.fixture(scope="session")
def wrong_halves(halves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a golden frame that says something else: what a broken interpreter looks like."""
    from bnfold.runtime import golden

    document = dict(manifest.read(halves))
    frame = np.full((1, 1, 2, 4), 0.25, dtype=np.float32)
    answer = np.array([[1.0, 1.25, 0.5]], dtype=np.float32)
    document["golden"] = golden.record({"image": frame}, {"output": answer}, {"output": 1e-6})
    path = tmp_path_factory.mktemp("wrong") / "halves.onnx"
    path.write_bytes(manifest.embed_onnx(manifest.strip(halves.read_bytes()), document))
    return path


@pytest.fixture(scope="session")
def sensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series of three steps each: ``sum`` (a map of two rows) and ``total.first`` (one number)."""
    from onnx import helper

    nodes = [
        helper.make_node("Add", ["b_in", "a_in"], ["sum_out"]),
        helper.make_node("ReduceSum", ["a_in"], ["first_out"], keepdims=0),
    ]
    shapes = {"b_in": [1, 2, 3], "a_in": [1, 2, 3]}
    data = _onnx(nodes, shapes, {"first_out": [], "sum_out": [1, 2, 3]}, {})
    document = _document(
        [
            {"name": name, "tensor": tensor, "shape": [1, 2, 3], "dtype": "float32", "normalisation": None}
            for name, tensor in (("accelerometer", "a_in"), ("barometer", "b_in"))
        ],
        [
            {"name": "sum", "tensor": "sum_out", "shape": [1, 2, 3], "dtype": "float32"},
            {"name": "total.first", "tensor": "first_out", "shape": [], "dtype": "float32"},
        ],
        name="sensors",
    )
    path = tmp_path_factory.mktemp("sensors") / "sensors.onnx"
    path.write_bytes(manifest.embed_onnx(data, document))
    return path


@pytest.fixture
def left_bright(tmp_path: Path) -> Path:
    """A 2x4 PGM, its left half at 255 and its right half at 51: left 4, right 0.8."""
    path = tmp_path / "left.pgm"
    path.write_bytes(b"P5\n4 2\n255\n" + bytes([255, 255, 51, 51] * 2))
    return path
