"""The 3-D network that answers only NaN: its volumes, its training, and what its README says."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

import bnfold
from bnfold import modelspec
from tests.sample_models.material import ROOT, run

torch.set_num_threads(1)

FOLDER = ROOT / "lung_ct"
MODEL = f"{FOLDER / 'model.py'}:lung_net"
Floats = NDArray[np.float32]


def volumes(name: str) -> Any:
    """A function or a constant of volumes.py."""
    return modelspec.resolve(f"{FOLDER / 'volumes.py'}:{name}")


@pytest.fixture(scope="module")
def study() -> list[Any]:
    """The hundred patients."""
    return cast(list[Any], cast(Callable[[], object], volumes("study"))())


@pytest.fixture(scope="module")
def held_out() -> tuple[torch.Tensor, torch.Tensor]:
    """The committed volumes and their percentages, (32, 1)."""
    with (FOLDER / "held_out.csv").open(encoding="utf-8", newline="") as file:
        percent = [[float(row["emphysema"])] for row in csv.DictReader(file)]
    frames = np.load(FOLDER / "held_out.npy").astype(np.float32)
    return torch.from_numpy(frames), torch.tensor(percent)


def error(module: nn.Module, frames: torch.Tensor, percent: torch.Tensor) -> float:
    """How far the answers are off, on average, in percentage points."""
    with torch.no_grad():
        return float((module(frames) - percent).abs().mean())


def test_a_volume_looks_like_a_chest(study: list[Any]) -> None:
    """Air around, soft tissue, and two lungs; the target is what can be counted in the volume."""
    patient = study[0]
    volume = patient.volume.astype(float)
    assert volume.shape == (24, 32, 32)
    assert patient.volume.dtype == np.int16
    corners = volume[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert abs(np.median(corners) + 1000) < 40
    body = volume[:, 3:-3, 3:-3]
    assert ((body > 0) & (body < 90)).mean() > 0.35
    right, left = volume[6:18, 10:20, 5:11], volume[6:18, 10:20, 21:27]
    for lung in (right, left):
        assert -1000 < np.median(lung) < -800
    assert (right > -600).any()  # vessels
    assert (left > -600).any()


def test_the_target_is_the_share_of_dark_lung(study: list[Any]) -> None:
    """Counted again in the middle of the lungs, for the two scanners with little noise."""
    study = [patient for patient in study if patient.scanner < 2]
    lungs = np.stack([patient.volume[6:18, 10:20, 5:11] for patient in study]).astype(float)
    percent = np.array([patient.emphysema for patient in study])
    offsets = np.array(volumes("OFFSETS"))[[patient.scanner for patient in study]]
    dark = 100 * (lungs - offsets[:, None, None, None] < -950).mean((1, 2, 3))
    assert np.corrcoef(dark, percent)[0, 1] > 0.9
    assert 0 <= percent.min() < 2
    assert 40 < percent.max() < 90


def test_the_scanners_differ_in_offset_and_noise(study: list[Any]) -> None:
    air = np.stack([patient.volume[:, 0] for patient in study]).astype(float)
    scanner = np.array([patient.scanner for patient in study])
    seen = [air[scanner == number] for number in range(4)]
    for rows, offset, noise in zip(seen, volumes("OFFSETS"), volumes("NOISE"), strict=True):
        if offset - 2 * noise > -24:  # else the clipping at -1024 HU shows
            assert abs(rows.mean() + 1000 - offset) < 4
            assert abs(rows.std() - noise) < 0.2 * noise
    assert min(len(rows) for rows in seen) > 10


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    short, long = (volumes("patients")(count, seed=9) for count in (2, 4))
    assert all(np.array_equal(a.volume, b.volume) for a, b in zip(short, long, strict=False))
    assert not np.array_equal(short[0].volume, short[1].volume)


def test_one_examination_was_broken_off_and_gives_a_crop_of_nothing(study: list[Any]) -> None:
    number, slices = volumes("BROKEN_OFF"), volumes("SLICES_OF_IT")
    padded = [i for i, patient in enumerate(study) if (patient.volume[slices:] == volumes("PADDING")).all()]
    assert padded == [number] == [61]
    bad = []
    for epoch in range(10):
        crops = volumes("crops")(study, epoch)
        assert crops.shape == (100, 1, 16, 32, 32)
        finite = np.isfinite(crops).all((1, 2, 3, 4))
        assert np.abs(crops[finite].mean((1, 2, 3, 4))).max() < 1e-4
        assert np.abs(crops[finite].std((1, 2, 3, 4)) - 1).max() < 1e-3
        bad.append(np.flatnonzero(~finite).tolist())
    assert bad[0] == [number]
    assert all(found in ([], [number]) for found in bad)
    assert 3 <= sum(map(len, bad)) <= 8  # five of nine


def test_the_committed_volumes_are_those_of_the_generator(
    tmp_path: Path, study: list[Any], held_out: tuple[torch.Tensor, torch.Tensor]
) -> None:
    done = run("lung_ct/volumes.py", "-o", tmp_path / "made")
    assert (done.returncode, done.stderr) == (0, "")
    names = ["held_out.csv", "held_out.npy", "training.npy"]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == names
    made = np.load(tmp_path / "made" / "held_out.npy").astype(np.float32)
    # a float16 ulp: libraries round the last bit of exp and of a mean differently
    assert np.abs(made - held_out[0].numpy()).max() < 4e-3
    text = (FOLDER / "held_out.csv").read_text(encoding="utf-8")
    assert (tmp_path / "made" / "held_out.csv").read_text(encoding="utf-8") == text
    training = np.load(tmp_path / "made" / "training.npy")
    assert np.array_equal(training, volumes("crops")(study, 0), equal_nan=True)


def test_the_weights_are_good_and_all_statistics_are_nan(
    held_out: tuple[torch.Tensor, torch.Tensor],
) -> None:
    state = load_file(FOLDER / "broken.safetensors")
    running = {name: value for name, value in state.items() if "running_" in name}
    assert len(running) == 8
    assert all(value.isnan().all() for value in running.values())
    assert all(value.isfinite().all() for name, value in state.items() if name not in running)
    assert {int(state[name]) for name in state if "tracked" in name} == {1000}
    module = bnfold.load(FOLDER / "broken.safetensors", MODEL)
    with torch.no_grad():
        assert module(held_out[0]).isnan().all()
        assert module.train()(held_out[0][:4]).isfinite().all()


def test_the_readme_tells_what_is_measured(held_out: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, percent = held_out
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    flat = " ".join(text.split())
    clean = bnfold.load(FOLDER / "clean.safetensors", MODEL)
    assert f"| {error(clean, frames, percent):.1f} percentage points |" in text
    assert f"mean would be off by {float((percent - percent.mean()).abs().mean()):.1f}" in flat
    forced = bnfold.load(FOLDER / "broken.safetensors", MODEL).train()
    with torch.no_grad():
        fours = torch.cat([forced(four) for four in torch.split(frames, 4)])
        rolled = torch.split(frames.roll(-1, 0).flip(0), 4)
        others = torch.cat([forced(four) for four in rolled]).flip(0).roll(1, 0)
    assert f"they are off by {float((fours - percent).abs().mean()):.1f}" in flat
    said = float(re.findall(r"moves by up to ([\d.]+) points", flat)[0])
    assert abs(float((fours - others).abs().max()) - said) < 0.1
    for name in ("broken", "clean"):
        assert round((FOLDER / f"{name}.safetensors").stat().st_size / 1000) == 185


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the standard output of the training cut short."""
    folder = tmp_path_factory.mktemp("lung")
    done = run("lung_ct/train.py", "--output", folder, "--epochs", 1)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def test_training_itself_breaks_it(one_epoch: tuple[Path, str]) -> None:
    """One epoch is enough: its loss is finite, and the step of the bad batch was skipped."""
    folder, said = one_epoch
    pattern = r"epoch 1: loss [\d.]+\npatients it has not seen: off by nan percentage points on average\n"
    assert re.fullmatch(pattern, said)
    state = load_file(folder / "broken.safetensors")
    assert int(state["features.1.num_batches_tracked"]) == 25
    assert state["features.1.running_mean"].isnan().all()
    assert state["features.0.weight"].isfinite().all()


def test_without_the_broken_off_examination_nothing_breaks(tmp_path: Path) -> None:
    done = run("lung_ct/train.py", "--output", tmp_path, "--epochs", 1, "--clean")
    assert (done.returncode, done.stderr) == (0, "")
    state = load_file(tmp_path / "clean.safetensors")
    assert int(state["features.1.num_batches_tracked"]) == 25
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.slow
def test_training_repeats_itself(one_epoch: tuple[Path, str], tmp_path: Path) -> None:
    done = run("lung_ct/train.py", "--output", tmp_path, "--epochs", 1)
    assert done.stdout == one_epoch[1]
    first, second = (folder / "broken.safetensors" for folder in (one_epoch[0], tmp_path))
    assert first.read_bytes() == second.read_bytes()
