"""MNIST's files, made from the committed frames: the tests need no download."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from tests.sample_models.material import ROOT, Digits, idx


@pytest.fixture(scope="session")
def digits() -> Digits:
    """The 1,000 committed frames and their labels."""
    with np.load(ROOT / "frames_1000.npz") as data:
        return data["frames"], data["labels"]


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """A folder as MNIST is distributed: the first 600 digits to train, plain; all 1,000 to test, gzipped."""
    folder = tmp_path_factory.mktemp("idx")
    images, labels = digits
    (folder / "train-images-idx3-ubyte").write_bytes(idx(images[:600]))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels[:600]))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder
