"""Whatever is given, the command line ends with a code and status 2 and soon; nothing is a bug in bnfold."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from bnfold import manifest

from .conftest import Cli

MODEL = "def make(*args):\n    import torch\n    return torch.nn.BatchNorm1d(2)\n"


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def refused(result: Any, code: str) -> None:
    assert result.status == 2, result.err
    assert result.err.startswith(f"error[{code}]"), result.err
    assert len(result.err.splitlines()) <= 5


@pytest.mark.parametrize(
    ("text", "told"),
    [("[convert]\nto=" + "[" * 50_000, "brackets"), ("[convert]\nopset = " + "9" * 5000, "not TOML")],
)
def test_configurations_that_cannot_be_read(cli: Cli, halves: Path, text: str, told: str) -> None:
    Path("hostile.toml").write_text(text)
    result = cli("inspect", "-c", "hostile.toml", halves)
    refused(result, "BNF-U005")
    assert told in result.err


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "[" + "9" * 5000 + "]"])
def test_model_arguments_that_cannot_be_read(cli: Cli, text: str) -> None:
    torch.save(torch.nn.BatchNorm1d(2).state_dict(), "a.pt")
    Path("net.py").write_text(MODEL)
    command = ("convert", "a.pt", "--model", "net.py:make", "--input", "1x2", "--model-args", text)
    refused(cli(*command), "BNF-U049")


def test_pipes_and_devices(cli: Cli, halves: Path, left_bright: Path, pipe: Path) -> None:
    for special in (pipe, "/dev/zero"):
        refused(cli("run", special, left_bright), "BNF-P016")
        refused(cli("run", halves, special), "BNF-P016")
        refused(cli("inspect", special), "BNF-L003")
        refused(cli("inspect", "-c", special, halves), "BNF-P016")
        refused(cli("verify", halves, halves, "--samples", special), "BNF-P016")
        convert = ("convert", "a.pt", "--model", "net.py:make", "--input", "1x2")
        refused(cli(*convert, "--labels", special), "BNF-P016")


def odd_tensors() -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes and deprecations
        return {
            "nested": torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
            "sparse": torch.ones(2).to_sparse(),
            "meta": torch.ones(2, device="meta"),
            "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            "complex": torch.ones(2, dtype=torch.complex64),
            "expanded": torch.zeros(1).expand(10**12),
        }


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_statistics_that_are_no_numbers_are_shown_as_such(cli: Cli) -> None:
    for name, value in odd_tensors().items():
        torch.save({**torch.nn.BatchNorm1d(2).state_dict(), "running_mean": value}, f"{name}.pt")
        result = cli("inspect", f"{name}.pt", "--format", "json")
        assert result.status == 0, result.err
        (norm,) = result.document["state_dicts"][0]["batch_norms"]
        assert norm["running_mean"] is None, name
        assert norm["running_var"]["max"] == 1
        assert "no numbers" in cli("inspect", f"{name}.pt").out


@pytest.mark.parametrize("value", [math.nan, math.inf, 1 + 2j, torch.ones((), device="meta")])
def test_counters_that_count_nothing(cli: Cli, value: Any) -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    torch.save({**state, "num_batches_tracked": torch.as_tensor(value)}, "a.pt")
    result = cli("inspect", "a.pt", "--format", "json")
    assert result.status == 0, result.err
    assert result.document["state_dicts"][0]["batch_norms"][0]["num_batches_tracked"] is None


def test_a_checkpoint_whose_name_is_not_utf8(cli: Cli, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/w\xff.pt")
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).eval()
    torch.save(layers.state_dict(), "a.pt")
    shutil.copy("a.pt", path)
    Path("net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))\n"
    )
    result = cli("convert", path, "--model", "net.py:make", "--input", "1x2", "--name", "x")
    assert result.status == 0, result.err
    assert manifest.read("x.onnx")["source"]["name"] == "w\\udcff.pt"


def test_an_artifact_that_failed_its_parity_answers_with_a_warning(
    cli: Cli, halves: Path, left_bright: Path
) -> None:
    shutil.copy(halves, "halves.onnx.rejected")
    document = dict(manifest.read(halves))
    row = {
        "candidate": "onnx", "runtime": "onnxruntime 1", "output": "output", "frames": 16,
        "frames_source": "random", "max_abs_error": 1.0, "noise_floor": 0.0, "tolerance": 0.1,
    }  # fmt: skip
    document["parity"] = [{**row, "passed": False}]
    Path("renamed.onnx").write_bytes(manifest.embed_onnx(manifest.strip(halves.read_bytes()), document))
    for name in ("halves.onnx.rejected", "renamed.onnx"):
        result = cli("run", name, left_bright, "--format", "json")
        assert result.status == 0
        assert [(f["code"], f["severity"]) for f in result.document["findings"]] == [("BNF-M101", "warning")]
        assert "warning[BNF-M101]" in result.err
        assert "failed its parity" in cli("run", name, left_bright).err
        timed = cli("bench", halves, "--against", name, "--count", 1, "--format", "json")
        assert timed.status == 0
        assert [(f["code"], f["where"]) for f in timed.document["findings"]] == [("BNF-M101", name)]
        assert "failed its parity" in cli("bench", name, "--count", 1).out
    assert cli("run", halves, left_bright).err == ""
