"""Reading IDX files: the values, and a message that names the file where there are none."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from sample_models import mnist
from tests.sample_models.material import Digits

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A test split of three images whose every byte is told from the others' by its position."""
    pixels = np.arange(3 * 28 * 28) % 251
    (tmp_path / IMAGES).write_bytes(header(3, 28, 28) + pixels.astype(np.uint8).tobytes())
    (tmp_path / LABELS).write_bytes(header(3) + bytes([4, 0, 9]))
    return tmp_path


def test_plain_files(three: Path) -> None:
    images, labels = mnist.load(three, "test")
    assert (images.dtype, images.shape) == (np.uint8, (3, 28, 28))
    assert images[2, 5, 7] == (2 * 784 + 5 * 28 + 7) % 251
    assert labels.tolist() == [4, 0, 9]


def test_gzipped_files(idx_folder: Path, digits: Digits) -> None:
    images, labels = mnist.load(idx_folder, "test")
    assert np.array_equal(images, digits[0])
    assert np.array_equal(labels, digits[1])
    images, labels = mnist.load(idx_folder, "train")
    assert np.array_equal(images, digits[0][:600])
    assert np.array_equal(labels, digits[1][:600])


def test_a_missing_file_is_named(three: Path) -> None:
    (three / LABELS).unlink()
    with pytest.raises(SystemExit, match=rf"{LABELS}\[\.gz\] is missing: --data must be a folder"):
        mnist.load(three, "test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, b"", "is no IDX file of 3-dimensional uint8"),
        (IMAGES, header(3) + bytes(3), "is no IDX file of 3-dimensional uint8"),
        (IMAGES, b"<!DOCTYPE html><html></html>", "is no IDX file of 3-dimensional uint8"),
        (IMAGES, header(3, 28, 28) + bytes(100), r"100 values for shape \(3, 28, 28\)"),
        (IMAGES, header(3, 28, 28) + bytes(3 * 784 + 1), r"2353 values for shape \(3, 28, 28\)"),
        (IMAGES, header(2**31, 2**31, 4) + bytes(9), r"9 values for shape \(2147483648, 2147483648, 4\)"),
        (IMAGES, header(3, 28, 27) + bytes(3 * 28 * 27), r"images are \(28, 27\) pixels"),
        (LABELS, header(2) + bytes(2), "3 images and 2 labels in test"),
        (LABELS, header(3) + bytes([4, 10, 9]), "test label 1 is 10, not 0 to 9"),
    ],
)
def test_a_damaged_file_is_named(three: Path, name: str, content: bytes, message: str) -> None:
    (three / name).write_bytes(content)
    with pytest.raises(SystemExit, match=message):
        mnist.load(three, "test")


def test_an_empty_split_is_refused(three: Path) -> None:
    (three / IMAGES).write_bytes(header(0, 28, 28))
    (three / LABELS).write_bytes(header(0))
    with pytest.raises(SystemExit, match="0 images and 0 labels in test"):
        mnist.load(three, "test")


@pytest.mark.parametrize("position", [0, 12, 40, -6])
def test_a_damaged_gzip_is_named(three: Path, position: int) -> None:
    """Its magic, its compressed data and its checksum: three different exceptions of the standard library."""
    packed = bytearray(gzip.compress((three / IMAGES).read_bytes()))
    packed[position] ^= 0xFF
    (three / IMAGES).unlink()
    (three / f"{IMAGES}.gz").write_bytes(packed)
    with pytest.raises(SystemExit, match=rf"{IMAGES}\.gz cannot be read: "):
        mnist.load(three, "test")


def test_a_truncated_gzip_is_named(three: Path) -> None:
    packed = gzip.compress((three / IMAGES).read_bytes())
    (three / IMAGES).unlink()
    (three / f"{IMAGES}.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(SystemExit, match=rf"{IMAGES}\.gz cannot be read: "):
        mnist.load(three, "test")
