"""MNIST in its own format (IDX, gzipped or not): the images and labels of one split, as uint8 arrays."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_UINT8 = 0x08
SIDE, CLASSES = 28, 10


def load(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The images (count, 28, 28) and labels (count,), 0 to 9, of ``train`` or ``test``.

    Raises:
        SystemExit: a file is missing or damaged; the message names it.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    images = _read(folder, f"{prefix}-images-idx3-ubyte", 3)
    labels = _read(folder, f"{prefix}-labels-idx1-ubyte", 1)
    if len(images) != len(labels) or not len(images):
        raise SystemExit(f"{folder}: {len(images)} images and {len(labels)} labels in {split}")
    if images.shape[1:] != (SIDE, SIDE):
        raise SystemExit(f"{folder}: {split} images are {images.shape[1:]} pixels, not {(SIDE, SIDE)}")
    if labels.max() >= CLASSES:
        at = int(labels.argmax())
        raise SystemExit(f"{folder}: {split} label {at} is {labels[at]}, not 0 to {CLASSES - 1}")
    return images, labels


def _read(folder: Path, name: str, ndim: int) -> NDArray[np.uint8]:
    """One IDX file: 0, 0, type, number of dimensions; each dimension as a big-endian uint32; the values."""
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() else packed
    if not path.is_file():
        raise SystemExit(f"{plain}[.gz] is missing: --data must be a folder of MNIST's IDX files")
    try:
        content = path.read_bytes() if path is plain else gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from error
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != bytes([0, 0, _UINT8, ndim]):
        raise SystemExit(f"{path} is no IDX file of {ndim}-dimensional uint8")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise SystemExit(
            f"{path}: {len(content) - header} values for shape {shape}; the file is truncated or damaged"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
