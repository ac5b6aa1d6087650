"""``bnfold inspect``: an artifact's manifest, or a checkpoint's tensors and running statistics."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bnfold import manifest

from .conftest import Cli


def test_an_artifact_says_what_its_manifest_says(cli: Cli, halves: Path) -> None:
    result = cli("inspect", halves, "--format", "json")
    assert (result.status, result.err) == (0, "")
    document = result.document
    data = halves.read_bytes()
    assert document["kind"] == "artifact"
    assert document["sha256"] == hashlib.sha256(data).hexdigest()
    assert document["size_bytes"] == len(data)
    assert document["manifest"] == manifest.read(halves)


def test_an_artifact_in_words(cli: Cli, halves: Path, sensors: Path) -> None:
    text = cli("inspect", halves).out
    assert "onnx fp32" in text
    assert "halves.pt (torch), sha256 000000000000" in text
    assert "labels   3" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["input", "image", "in0", "float32", "1x1x2x4"] in rows
    assert ["output", "output", "out0", "float32", "1x3"] in rows
    assert "image: frames are prepared as gray, stretch, NCHW, pixel / 255" in text
    series = cli("inspect", sensors).out
    assert ["output", "total.first", "first_out", "float32", "scalar"] in [
        line.split() for line in series.splitlines()
    ]
    assert "barometer: takes arrays that are prepared already, no images" in series


def test_an_artifact_of_a_network_from_no_file(cli: Cli, halves: Path, tmp_path: Path) -> None:
    document = manifest.read(halves)
    document["source"] = {"name": None, "sha256": None, "format": None}
    path = tmp_path / "plain.onnx"
    path.write_bytes(manifest.embed_onnx(manifest.strip(halves.read_bytes()), document))
    result = cli("inspect", path)
    assert result.status == 0
    assert "None" not in result.out
    assert "source" not in result.out


def test_an_artifact_by_its_content_whatever_it_is_called(cli: Cli, halves: Path, tmp_path: Path) -> None:
    for name in ("halves", "halves.onnx.rejected", "halves.bytes"):
        (tmp_path / name).write_bytes(halves.read_bytes())
        assert cli("inspect", name, "--format", "json").document["kind"] == "artifact"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    state = {
        "conv.weight": torch.arange(12.0).reshape(2, 2, 3),
        "bn.running_mean": torch.tensor([-1.5, 2.0]),
        "bn.running_var": torch.tensor([0.25, float("nan")]),
        "bn.num_batches_tracked": torch.tensor(70),
        "running_mean": torch.tensor([3.0]),
    }
    path = tmp_path / "small.safetensors"
    save_file(state, path)
    return path


def test_a_checkpoint(cli: Cli, checkpoint: Path) -> None:
    result = cli("inspect", checkpoint, "--format", "json")
    assert (result.status, result.err) == (0, "")
    document = result.document
    assert (document["kind"], document["format"]) == ("checkpoint", "safetensors")
    assert document["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    (state,) = document["state_dicts"]
    tensors = {tensor["name"]: (tensor["dtype"], tensor["shape"]) for tensor in state["tensors"]}
    assert tensors["conv.weight"] == ("float32", [2, 2, 3])
    assert tensors["bn.num_batches_tracked"] == ("int64", [])
    norms = {norm["name"]: norm for norm in state["batch_norms"]}
    assert norms["bn"] == {
        "name": "bn", "channels": 2, "num_batches_tracked": 70,
        "running_mean": {"min": -1.5, "max": 2.0, "non_finite": 0},
        "running_var": {"min": 0.25, "max": 0.25, "non_finite": 1},
    }  # fmt: skip
    assert norms[""]["running_var"] is None
    assert norms[""]["running_mean"] == {"min": 3.0, "max": 3.0, "non_finite": 0}


def test_a_checkpoint_in_words(cli: Cli, checkpoint: Path) -> None:
    result = cli("inspect", checkpoint)
    assert result.status == 0
    assert "5 tensors" in result.out
    assert "2 BatchNorms" in result.out
    assert "-1.5 to 2" in result.out
    assert "1 not finite" in result.out
    assert "(the whole)" in result.out


def test_several_state_dicts_in_one_file(cli: Cli, tmp_path: Path) -> None:
    state = {"weight": torch.ones(2)}
    torch.save({"model": state, "model_ema": {"weight": torch.zeros(2)}}, tmp_path / "two.pt")
    document = cli("inspect", "two.pt", "--format", "json").document
    names = [entry["name"] for entry in document["state_dicts"]]
    assert sorted(names) == ["model", "model_ema"]
    assert document["default"] == "model"
    text = " ".join(cli("inspect", "two.pt").out.split())
    assert text.count("(the one that is used unless --state names another)") == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nothing.onnx"], "M001"),
        (["nothing.safetensors"], "L001"),
        (["text.tflite"], "M002"),
        (["small.safetensors", "--sha256", "0" * 64], "L009"),
        (["small.safetensors", "--sha256", "short"], "U010"),
        ([], "U001"),
    ],
)
def test_mistakes(cli: Cli, checkpoint: Path, tmp_path: Path, arguments: list[str], code: str) -> None:
    (tmp_path / "text.tflite").write_text("not a model")
    result = cli("inspect", *arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"error[BNF-{code}]: ")
