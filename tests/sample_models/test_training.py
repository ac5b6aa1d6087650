"""The training scripts, on a few digits: they learn, repeat themselves and say what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bnfold
from tests.sample_models.material import ROOT, Digits, run

EPOCH = 10  # 600 digits in batches of 60


def right_answers(module: nn.Module, digits: Digits) -> int:
    """How many of the frames the module gets right."""
    frames, labels = digits
    with torch.no_grad():
        answers = module(torch.from_numpy(frames[:, None].astype(np.float32) / 255)).argmax(1)
    return int((answers.numpy() == labels).sum())


def batches_seen(module: nn.Module) -> set[int]:
    """num_batches_tracked of every BatchNorm."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    return {int(m.num_batches_tracked) for m in module.modules() if isinstance(m, norms)}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def mlp(idx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the standard output of the MLP's training over ten epochs of 600 digits."""
    folder = tmp_path_factory.mktemp("mlp") / "made" / "for it"
    options = ("--iterations", 10 * EPOCH, "--every", 45)
    done = run("mnist_mlp/train.py", "--data", idx_folder, "--output", folder, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def test_the_mlp_trains_and_says_what_it_measured(mlp: tuple[Path, str], digits: Digits) -> None:
    folder, said = mlp
    names = ["plain", "after", "before"]
    expected = [*(f"{name}.safetensors" for name in names), "curves.json", "curves.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)
    curves = json.loads((folder / "curves.json").read_text(encoding="utf-8"))
    assert list(curves) == names
    lines = []
    for name in names:
        module = bnfold.load(folder / f"{name}.safetensors", f"{ROOT / 'mnist_mlp' / 'model.py'}:{name}")
        assert batches_seen(module) == (set() if name == "plain" else {10 * EPOCH})
        right = right_answers(module, digits)
        assert [step for step, _ in curves[name]] == [45, 90, 100]
        assert curves[name][-1][1] == right / 1000
        lines.append(f"{name}: {right / 1000:.2%} of 1000 test images")
    assert said.splitlines() == lines


def test_the_mlp_learns_faster_with_batch_norm(mlp: tuple[Path, str]) -> None:
    """Chance is about 0.1, where sigmoids alone still are after 100 iterations."""
    curves = json.loads((mlp[0] / "curves.json").read_text(encoding="utf-8"))
    last = {name: curve[-1][1] for name, curve in curves.items()}
    assert last["plain"] < 0.3
    assert last["before"] > last["plain"] + 0.1
    assert last["after"] > 0.6


def test_the_mobilenet_trains_one_epoch_and_repeats_itself(
    idx_folder: Path, tmp_path: Path, digits: Digits
) -> None:
    said = []
    options = ("--epochs", 1, "--subset", 300)
    for folder in ("one", "two"):
        done = run("mnist_mobilenet/train.py", "--data", idx_folder, "--output", tmp_path / folder, *options)
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout)
    one, two = (tmp_path / folder / "mobilenet.safetensors" for folder in ("one", "two"))
    assert [path.name for path in one.parent.iterdir()] == ["mobilenet.safetensors"]
    assert one.read_bytes() == two.read_bytes()
    assert said[0] == said[1]
    module = bnfold.load(one, f"{ROOT / 'mnist_mobilenet' / 'model.py'}:mobilenet")
    assert batches_seen(module) == {3}  # 128, 128 and 44 digits
    right = right_answers(module, (digits[0][:300], digits[1][:300]))
    assert said[0] == f"epoch 1: {right / 300:.2%} of 300 test images\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--iterations", "0"], 2, "argument --iterations: invalid positive value: '0'"),
        (["--subset", "59"], 2, "59 training images do not fill one batch of 60"),
    ],
)
def test_options_that_cannot_work_are_refused(
    idx_folder: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    out = tmp_path / "out"
    done = run("mnist_mlp/train.py", "--data", idx_folder, "--output", out, *arguments)
    assert done.returncode == status
    assert done.stderr.splitlines()[-1] == f"train.py: error: {message}"
    assert not out.exists()


def test_a_folder_without_mnist_is_refused_by_name(tmp_path: Path) -> None:
    done = run("mnist_mobilenet/train.py", "--data", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 1
    missing = tmp_path / "train-images-idx3-ubyte"
    assert done.stderr == f"{missing}[.gz] is missing: --data must be a folder of MNIST's IDX files\n"
    assert not (tmp_path / "out").exists()
