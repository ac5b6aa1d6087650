"""Reading one frame from a file: .npy and PGM/PPM with numpy alone, PNG and JPEG with Pillow.

The format is told by the file's first bytes, not by its name. An image's orientation tag (EXIF) is ignored,
and a palette or CMYK becomes RGB, as with the usual ``Image.open(path).convert("RGB")`` of training code.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bnfold.errors import InputError, PlatformError
from bnfold.files import refuse_special
from bnfold.runtime.session import Array

NUMPY, PNG, JPEG = b"\x93NUMPY", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
SUFFIXES = (".jpeg", ".jpg", ".npy", ".pgm", ".png", ".pnm", ".ppm")

_KINDS = "biuf"  # booleans, integers and floats
MOST_BYTES = 3 * 89_478_485  # of pixels
_MOST_PIXELS = 89_478_485  # where Pillow begins to warn: a few bytes of PNG can stand for gigabytes


def read(path: str | os.PathLike[str]) -> Array:
    """The frame in a file: uint8 (H, W) or (H, W, 3) from an image, any numeric array from ``.npy``.

    Raises:
        InputError: BNF-R001 no such file; BNF-R002 none of the formats; BNF-R003 damaged or cut off;
            BNF-R004 an image of another depth than 8 bits; BNF-R005 an array that is not of numbers.
            BNF-R006 a PNG or JPEG of more than 89 million pixels.
        PlatformError: BNF-P015 the file cannot be read; BNF-P016 a pipe or a device; BNF-P022 PNG or JPEG,
            and Pillow is not installed.
    """
    return decode(_bytes(path), str(path))


def decode(data: bytes, where: str) -> Array:
    """The frame that these bytes of a file are.

    Raises:
        InputError, PlatformError: as :func:`read`.
    """
    if data.startswith(NUMPY):
        return load_array(io.BytesIO(data), where)
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return _Netpbm(data, where).image()
    if data.startswith((PNG, JPEG)):
        return _with_pillow(data, where)
    raise InputError(
        "BNF-R002",
        f"no frame: {'an empty file' if not data else 'neither PNG, JPEG, PGM, PPM nor .npy'}",
        where=where,
        fix="convert the image to PNG, or save the array with numpy.save",
    )


def load_array(file: Any, where: str, **options: Any) -> Array:
    """``numpy.load`` of one array that executes nothing; ``options`` go to it.

    Raises:
        InputError: BNF-R003 damaged; BNF-R005 objects, text or dates.
    """
    try:
        array = np.load(file, allow_pickle=False, **options)
    except Exception as error:  # numpy reads the header with tokenize and ast, which raise what they like
        if "allow_pickle" in str(error):
            raise _no_numbers("Python objects, which are never loaded", where) from error
        _damaged(f"the array cannot be read: {error}", where, error)
    if array.dtype.kind not in _KINDS:
        raise _no_numbers(f"{array.dtype}", where)
    return array  # type: ignore[no-any-return]


def _no_numbers(what: str, where: str) -> InputError:
    return InputError(
        "BNF-R005", f"the array holds {what}", where=where, fix="save numbers: uint8 pixels or float values"
    )


def _bytes(path: str | os.PathLike[str]) -> bytes:
    refuse_special(path)
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        raise InputError(
            "BNF-R001", f"no frame here: {getattr(error, 'strerror', None) or error}", where=str(path)
        ) from error
    except OSError as error:
        raise PlatformError("BNF-P015", f"cannot read the file: {error.strerror}", where=str(path)) from error


def _damaged(what: str, where: str, error: Exception | None = None) -> NoReturn:
    raise InputError("BNF-R003", what, where=where, fix="copy the file again") from error


def _too_large(what: str, where: str, error: Exception | None = None) -> NoReturn:
    fix = f"make it smaller: at most {_MOST_PIXELS:,} pixels are decoded"
    raise InputError("BNF-R006", what, where=where, fix=fix) from error


def _wrong_depth(what: str, where: str) -> NoReturn:
    raise InputError(
        "BNF-R004", what, where=where, fix="convert it to 8 bits per channel: models are made for 0 to 255"
    )


class _Netpbm:
    """PGM and PPM, plain (P2, P3) and raw (P5, P6), with a maximum of 255."""

    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        self._position = 2

    def image(self) -> Array:
        kind = self._data[1:2]
        if kind in b"147":
            _wrong_depth(f"P{kind.decode()} is a bitmap or a PAM file, not a PGM or PPM image", self._where)
        width, height, largest = (self._number(name) for name in ("width", "height", "maximum"))
        if largest != 255:
            _wrong_depth(f"its maximum is {largest}, not 255", self._where)
        if width == 0 or height == 0:
            _damaged(f"the image has {width} x {height} pixels", self._where)
        shape = (height, width, 3) if kind in b"36" else (height, width)
        count = height * width * (3 if kind in b"36" else 1)
        pixels = self._raw(count) if kind in b"56" else self._plain(count)
        return pixels.reshape(shape)

    def _raw(self, count: int) -> Array:
        start = self._position + 1  # exactly one white space after the maximum
        if len(self._data) - start != count:
            _damaged(f"{count} bytes of pixels announced, {len(self._data) - start} there", self._where)
        return np.frombuffer(self._data, np.uint8, count, start)

    def _plain(self, count: int) -> Array:
        body = b" ".join(line.partition(b"#")[0] for line in self._data[self._position :].splitlines())
        try:
            values = np.array(body.split(), dtype=np.int64)
        except (ValueError, OverflowError) as error:
            _damaged("something among the pixels is no number", self._where, error)
        if len(values) != count:
            _damaged(f"{count} numbers announced, {len(values)} there", self._where)
        if values.min() < 0 or values.max() > 255:
            _damaged(f"pixels from {values.min()} to {values.max()}, not 0 to 255", self._where)
        return values.astype(np.uint8)

    def _number(self, name: str) -> int:
        """The next number of the header; comments run from # to the end of the line."""
        data, position = self._data, self._position
        while data[position : position + 1].isspace() or data[position : position + 1] == b"#":
            if data[position : position + 1] == b"#":
                end = data.find(b"\n", position)
                position = len(data) if end < 0 else end
            else:
                position += 1
        start = position
        while data[position : position + 1].isdigit():
            position += 1
        if not 0 < position - start < 10 or not data[position : position + 1].isspace():
            _damaged(f"the header has no {name}", self._where)
        self._position = position
        return int(data[start:position])


def _with_pillow(data: bytes, where: str) -> Array:
    try:
        from PIL import Image
    except ImportError as error:
        raise PlatformError(
            "BNF-P022",
            "PNG and JPEG need Pillow, which is not installed",
            where=where,
            fix="pip install 'bnfold[images]', or give PGM, PPM or .npy",
        ) from error
    if data.startswith(PNG) and data[24:25] == b"\x10":  # IHDR's bit depth: Pillow cuts 16-bit RGB silently
        _wrong_depth("a PNG with 16 bits per channel", where)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _MOST_PIXELS:
                _too_large(f"an image of {image.width} x {image.height} pixels", where)
            image.load()
            mode = image.mode
            if mode in ("1", "L", "LA"):
                return np.array(image.convert("L"))
            if mode in ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
                return np.array(image.convert("RGB"))
    except (MemoryError, InputError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        _too_large("an image of more pixels than Pillow decodes", where, error)
    except Exception as error:  # damaged files raise a dozen types, SyntaxError among them
        _damaged(f"the image cannot be decoded: {error}", where, error)
    _wrong_depth(f"an image of Pillow's mode {mode}", where)
