"""Frames and labels that are made, or damaged, to do harm: a coded error, soon and in little memory."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from bnfold.errors import BnfoldError
from bnfold.runtime import frames, images
from bnfold.runtime.feeds import Feeds
from bnfold.signature import TensorSpec

SPEC = TensorSpec("x", (1, 4), "float32")


def code_of(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(BnfoldError) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    return caught.value.code


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_float_input_that_is_not_finite(bad: float, dtype: str) -> None:
    array = np.array([[0, bad, 1, 2]], dtype=dtype)
    feeds = Feeds((SPEC,), {"x": None})
    for call in (feeds.of_frame, feeds.of_arrays):
        for value in (array, {"x": array}):
            if dtype == "float32" or call == feeds.of_frame:
                assert code_of(call, value) == "BNF-R018"
    with pytest.raises(BnfoldError) as caught:
        feeds.of_frame(array)
    assert "1 of 4 values" in caught.value.what
    assert feeds.of_arrays(np.ones((1, 4), np.float32))[0].sum() == 4


def test_integers_are_finite() -> None:
    feeds = Feeds((TensorSpec("x", (2,), "int64"),), {"x": None})
    assert feeds.of_arrays(np.array([1, 2]))[0].tolist() == [1, 2]


def npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


@pytest.mark.parametrize(
    "shape",
    ["(1, 4 ", "(1, 4", "[", "'", "(" * 200 + ")" * 200, "1" * 5000, "-" * 9000 + "1", "(1,\n 4", '"""'],
)
def test_a_damaged_header_of_npy(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }"))
    assert code_of(images.read, path) == "BNF-R003"
    assert code_of(frames.read, path) == "BNF-R003"


@pytest.mark.parametrize("label", ["9" * 23, "9" * 5000, "1" + "0" * 18])
def test_huge_class_numbers(tmp_path: Path, label: str) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 1 1 255\n\0")
    (tmp_path / "labels.csv").write_text(f"file,label\na.pgm,{label}\n")
    assert code_of(frames.read, tmp_path) == "BNF-R021"


def test_class_numbers_beyond_int64(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((1, 4), np.float32), labels=np.array([2**63 + 5], dtype=np.uint64))
    assert code_of(frames.read, path) == "BNF-R021"


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (13_000, 13_000), (60_000, 60_000)])
@pytest.mark.filterwarnings("ignore::Warning")
def test_an_image_of_too_many_pixels(tmp_path: Path, width: int, height: int) -> None:
    pytest.importorskip("PIL")
    path = tmp_path / "a.png"
    path.write_bytes(png(width, height))
    assert code_of(images.read, path) == "BNF-R006"


def test_an_archive_that_unpacks_to_far_more_than_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "x.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }") + bytes(10**6)
        )
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24  # the size that the directory declares
    data[at : at + 4] = struct.pack("<I", 2**31)
    path.write_bytes(data)
    assert code_of(frames.read, path) == "BNF-R024"


def test_frames_that_compress_well_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((2, 1000, 1000), np.uint8))
    assert len(frames.read(path)) == 2


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_an_archive_compressed_as_numpy_never_does(tmp_path: Path, method: int) -> None:
    path, content = tmp_path / "a.npz", io.BytesIO()
    np.save(content, np.zeros((2, 4), np.float32))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", content.getvalue())
    assert code_of(frames.read, path) == "BNF-R003"


def test_pipes_and_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    for read in (images.read, frames.read):
        assert code_of(read, tmp_path / "a.npy") == "BNF-P016"
        assert code_of(read, "/dev/zero") == "BNF-P016"
