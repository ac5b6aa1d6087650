"""The committed frames, and the script that makes them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from tests.sample_models.material import ROOT, Digits, run


def test_a_thousand_digits_in_one_file(digits: Digits) -> None:
    frames, labels = digits
    assert (frames.dtype, frames.shape) == (np.uint8, (1000, 28, 28))
    assert (labels.dtype, labels.shape) == (np.uint8, (1000,))
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(labels).tolist() == [85, 126, 116, 107, 110, 87, 87, 99, 89, 94]
    assert len(np.unique(frames.reshape(1000, -1), axis=0)) == 1000


def test_the_png_files_are_the_first_256(digits: Digits) -> None:
    frames, labels = digits
    paths = sorted((ROOT / "frames").glob("*.png"))
    assert [path.name for path in paths] == [f"{i:04}_{labels[i]}.png" for i in range(256)]
    for path, frame in zip(paths, frames, strict=False):
        with Image.open(path) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), frame)
    with (ROOT / "frames" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["file", "label"], *([path.name, path.stem[-1]] for path in paths)]


def test_the_labels_are_the_digits() -> None:
    assert (ROOT / "labels.txt").read_text(encoding="utf-8").split() == list("0123456789")


def test_the_script_makes_them_again(idx_folder: Path, tmp_path: Path, digits: Digits) -> None:
    made = run("make_frames.py", "--data", idx_folder, "--output", tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    committed = {path.name for path in (ROOT / "frames").iterdir()}
    assert {path.name for path in (tmp_path / "frames").iterdir()} == committed
    for name in ("frames/labels.csv", "labels.txt"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()
    for frame, path in zip(digits[0], sorted((tmp_path / "frames").glob("*.png")), strict=False):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), frame)
    with np.load(tmp_path / "frames_1000.npz") as data:
        assert sorted(data) == ["frames", "labels"]
        assert np.array_equal(data["frames"], digits[0])
        assert np.array_equal(data["labels"], digits[1])


def test_too_few_images_are_refused(tmp_path: Path, idx_folder: Path) -> None:
    for kind in ("images-idx3", "labels-idx1"):
        few = (idx_folder / f"train-{kind}-ubyte").read_bytes()
        (tmp_path / f"t10k-{kind}-ubyte").write_bytes(few)
    made = run("make_frames.py", "--data", tmp_path, "--output", tmp_path / "out")
    assert made.returncode == 1
    assert made.stderr.strip() == f"{tmp_path}: 600 test images; 1000 are needed"
    assert not (tmp_path / "out").exists()
