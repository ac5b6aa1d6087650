"""One frame from one file: the pixels that were written, or a code that says why not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bnfold.errors import InputError, PlatformError
from bnfold.runtime import images

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
RGB = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def code_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        images.read(path)
    assert str(path) in caught.value.where
    return caught.value.code.removeprefix("BNF-")


def text(pixels: Any) -> bytes:
    return b" ".join(b"%d" % pixel for pixel in pixels.ravel())


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (b"P5\n3 2\n255\n" + GREY.tobytes(), GREY),
        (b"P5 3 2 255 " + GREY.tobytes(), GREY),
        (b"P5\n# a camera\n3 # wide\n2\n# and high\n255\n" + GREY.tobytes(), GREY),
        (b"P6\n3 2\n255\n" + RGB.tobytes(), RGB),
        (b"P2\n3 2\n255\n" + text(GREY) + b"\n", GREY),
        (b"P2\n3 2\n255\n" + text(GREY[0]) + b" # first row\n" + text(GREY[1]), GREY),
        (b"P3\n3 2\n255\n" + text(RGB), RGB),
        # a first pixel that looks like white space or a comment is a pixel
        (b"P5\n3 2\n255\n\n# \t\r ", np.frombuffer(b"\n# \t\r ", np.uint8).reshape(2, 3)),
    ],
    ids=["raw", "one line", "comments", "raw colour", "plain", "plain comments", "plain colour", "white"],
)
def test_pgm_and_ppm(tmp_path: Path, data: bytes, pixels: Any) -> None:
    got = images.read(written(tmp_path / "frame", data))
    assert got.dtype == np.uint8
    assert got.shape == pixels.shape
    assert np.array_equal(got, pixels)


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"P5\n3 2\n65535\n" + bytes(12), "R004", "its maximum is 65535, not 255"),
        (b"P5\n3 2\n15\n" + bytes(6), "R004", "its maximum is 15"),
        (b"P4\n8 1\n\xff", "R004", "P4 is a bitmap"),
        (b"P1\n1 1\n1", "R004", "P1 is a bitmap"),
        (b"P7\nWIDTH 1\n", "R004", "P7"),
        (b"P5\n3 2\n255\n" + GREY.tobytes()[:-1], "R003", "6 bytes of pixels announced, 5 there"),
        (b"P5\n3 2\n255\n" + GREY.tobytes() + b"\0", "R003", "7 there"),
        (b"P6\n3 2\n255\n" + GREY.tobytes(), "R003", "18 bytes of pixels announced, 6 there"),
        (b"P2\n3 2\n255\n" + text(GREY[0]), "R003", "6 numbers announced, 3 there"),
        (b"P2\n3 2\n255\n1 2 3 4 5 256", "R003", "not 0 to 255"),
        (b"P2\n3 2\n255\n1 2 3 4 5 -1", "R003", "not 0 to 255"),
        (b"P2\n3 2\n255\n1 2 3 4 5 x", "R003", "no number"),
        (b"P5\n0 2\n255\n", "R003", "0 x 2 pixels"),
        (b"P5\n", "R003", "the header has no width"),
        (b"P5\n3 2\n", "R003", "the header has no maximum"),
        (b"P5\n3 2\n255", "R003", "the header has no maximum"),
        (b"P5\n3 x\n255\n", "R003", "the header has no height"),
        (b"P5\n9999999999 2\n255\n", "R003", "the header has no width"),
        (b"P5\n999999999 999999999\n255\n", "R003", "announced"),
        (b"P5\n# no end", "R003", "the header has no width"),
        (b"", "R002", "an empty file"),
        (b"P", "R002", "neither PNG"),
        (b"P9\n1 1\n255\n0", "R002", "neither PNG"),
        (b"GIF89a" + bytes(20), "R002", "neither PNG"),
    ],
)
def test_not_an_image_that_is_read(tmp_path: Path, data: bytes, code: str, says: str) -> None:
    path = written(tmp_path / "frame.pgm", data)
    assert code_of(path) == code
    with pytest.raises(InputError) as caught:
        images.read(path)
    assert says in caught.value.what


def test_pgm_cut_off_anywhere(tmp_path: Path) -> None:
    data = b"P5\n3 2\n255\n" + GREY.tobytes()
    codes = {code_of(written(tmp_path / "frame.pgm", data[:length])) for length in range(len(data))}
    assert codes == {"R002", "R003"}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64", "bool", ">f4"])
def test_npy(tmp_path: Path, dtype: str) -> None:
    array = (np.arange(12).reshape(3, 4) % 2).astype(dtype)
    np.save(tmp_path / "frame.npy", array)
    got = images.read(tmp_path / "frame.npy")
    assert got.dtype == array.dtype
    assert np.array_equal(got, array)


def test_npy_that_is_damaged_or_holds_no_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "frame.npy", GREY)
    data = (tmp_path / "frame.npy").read_bytes()
    for length in range(8, len(data)):
        assert code_of(written(tmp_path / "cut.npy", data[:length])) == "R003"
    for name, array in (("text", np.array(["a"])), ("dates", np.array(["2020-01-01"], "M8[D]"))):
        np.save(tmp_path / f"{name}.npy", array)
        assert code_of(tmp_path / f"{name}.npy") == "R005"
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert code_of(tmp_path / "objects.npy") == "R005"


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_png_grey_and_colour(tmp_path: Path) -> None:
    for pixels in (GREY, RGB):
        path = written(tmp_path / "frame.bin", saved(Image.fromarray(pixels)))  # the name does not matter
        got = images.read(path)
        assert got.dtype == np.uint8
        assert np.array_equal(got, pixels)


def test_png_with_alpha_a_palette_or_one_bit(tmp_path: Path) -> None:
    alpha = np.dstack([RGB, np.full((2, 3), 7, np.uint8)])
    assert np.array_equal(images.read(written(tmp_path / "a.png", saved(Image.fromarray(alpha)))), RGB)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    got = images.read(written(tmp_path / "p.png", saved(palette)))
    assert got.tolist() == [[[10, 20, 30], [200, 100, 50]]]
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert images.read(written(tmp_path / "b.png", saved(bits))).tolist() == [[0, 255]]


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
    for picture in (Image.fromarray(ramp), Image.fromarray(np.dstack([ramp, ramp[::-1], ramp.T]))):
        data = saved(picture, "JPEG", quality=90)
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image)
        assert np.array_equal(images.read(written(tmp_path / "frame.jpg", data)), pixels)
        assert np.abs(pixels.astype(int) - np.asarray(picture).astype(int)).mean() < 40


def test_png_of_16_bits_is_refused_and_not_cut_to_8(tmp_path: Path) -> None:
    deep = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    assert code_of(written(tmp_path / "deep.png", saved(deep))) == "R004"

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    # in colour, which Pillow reads as if it had 8 bits, and does not write
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    pixel = chunk(b"IDAT", zlib.compress(b"\0" + b"\x12\x34" * 3))
    data = images.PNG + header + pixel + chunk(b"IEND", b"")
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
    assert code_of(written(tmp_path / "colour.png", data)) == "R004"


def test_png_and_jpeg_cut_off(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG"):
        data = saved(Image.fromarray(np.tile(RGB, (8, 8, 1))), kind)
        for length in range(16, len(data) - 30, 29):
            assert code_of(written(tmp_path / "cut", data[:length])) == "R003"


def test_not_there(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nothing.png") == "R001"
    assert code_of(tmp_path) == "R001"
    written(tmp_path / "file", b"")
    assert code_of(tmp_path / "file" / "frame.png") == "R001"


def test_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PlatformError) as caught:
        images.read(tmp_path / "frame.pgm")
    assert caught.value.code == "BNF-P015"
    assert "Permission denied" in caught.value.what
