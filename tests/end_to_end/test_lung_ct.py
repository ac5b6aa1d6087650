"""The network that answered only NaN: diagnosed, refused, repaired and converted, by the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnfold

FOLDER = Path(__file__).parents[2] / "sample_models" / "lung_ct"
MODEL = ("--model", f"{FOLDER / 'model.py'}:lung_net")
HELD_OUT = ("--samples", FOLDER / "held_out.npy")
INPUT = ("--input", "1x1x16x32x32")


def bnfold_command(*arguments: object) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "bnfold_cli", *map(str, arguments), "--format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def test_diagnose_names_the_layer_and_the_cause() -> None:
    status, document = bnfold_command("diagnose", FOLDER / "broken.safetensors", *MODEL, *HELD_OUT)
    assert status == 1
    first = document["findings"][0]
    assert (first["code"], first["severity"]) == ("BNF-A001", "error")
    assert first["where"].startswith("features.1.running_mean[0")
    assert first["evidence"]["channels"] == list(range(8))
    assert "recalibrate" in first["remedy"]


def test_convert_refuses_the_broken_one_and_writes_nothing(tmp_path: Path) -> None:
    status, document = bnfold_command(
        "convert", FOLDER / "broken.safetensors", *MODEL, *INPUT, "-o", tmp_path
    )
    assert (status, document["passed"], document["artifacts"]) == (1, False, [])
    assert document["findings"][0]["code"] == "BNF-A001"
    assert list(tmp_path.iterdir()) == []


def test_recalibrate_repairs_it_and_convert_passes_it(tmp_path: Path) -> None:
    repaired = tmp_path / "repaired.safetensors"
    status, document = bnfold_command(
        "recalibrate", FOLDER / "broken.safetensors", *MODEL, *HELD_OUT, "-o", repaired
    )
    assert (status, document["passed"]) == (0, True)
    status, document = bnfold_command("convert", repaired, *MODEL, *INPUT, *HELD_OUT, "-o", tmp_path / "out")
    assert (status, document["passed"]) == (0, True)
    assert {entry["status"] for entry in document["batch_norms"]} == {"folded"}
    assert points_off(tmp_path / "out" / "repaired.onnx") < 6


@pytest.mark.parametrize("name", ["repaired", "clean"])
def test_the_kept_checkpoints_are_healthy(name: str, tmp_path: Path) -> None:
    status, document = bnfold_command("diagnose", FOLDER / f"{name}.safetensors", *MODEL, *HELD_OUT)
    assert (status, document["passed"]) == (0, True)
    status, _ = bnfold_command(
        "convert", FOLDER / f"{name}.safetensors", *MODEL, *INPUT, *HELD_OUT, "-o", tmp_path
    )
    assert status == 0
    assert points_off(tmp_path / f"{name}.onnx") < 6


def points_off(artifact: Path) -> float:
    """Mean error in percentage points on patients that the training has not seen; the mean is off by 10.7."""
    volumes = np.load(FOLDER / "held_out.npy").astype(np.float32)
    truth = np.genfromtxt(FOLDER / "held_out.csv", delimiter=",", names=True)
    model = bnfold.open(artifact)
    answers = np.array([float(model.predict_raw(volume[None])["output"].ravel()[0]) for volume in volumes])
    return float(np.abs(answers - truth["emphysema"]).mean())
