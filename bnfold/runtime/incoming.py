"""Frames as they come: from a folder or a file, or from a pipe that a camera's program writes to.

A pipe holds one of three things, told apart by how it begins:

- ``.npy`` arrays, one after another, each one frame;
- PGM or PPM images (P5, P6), one after another, as ``ffmpeg ... -f image2pipe -c:v ppm -`` writes them;
- lines, each the path of a frame: an image, an ``.npy`` with one frame, or an ``.npz`` as
  :func:`bnfold.runtime.frames.read` takes it.

``numpy.save`` cannot write to a pipe itself, only to a buffer (``io.BytesIO``) that is then written.

A frame that cannot be read does not end the iteration: it comes with its error, and whoever asked decides.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from bnfold.errors import InputError
from bnfold.runtime import frames, images
from bnfold.runtime.frames import Frame
from bnfold.runtime.session import Array

_LONGEST = 32768  # bytes of a path, or of an image's header; beyond that it is none
_NUMBERS, _COMMENT = re.compile(rb"\d+"), re.compile(rb"#[^\n]*")


@dataclass(frozen=True)
class Arrival:
    """One frame, or why it could not be read.

    Attributes:
        name: of the file, or the number of the array in the pipe.
        frame: an array, or for several inputs a dictionary of them; None where there is an ``error``.
    """

    name: str
    frame: Frame | None
    error: InputError | None = None


def from_path(path: str | os.PathLike[str], inputs: Sequence[str]) -> Iterator[Arrival]:
    """The frames of a folder or a file in their order; see :func:`bnfold.runtime.frames.read`.

    Raises:
        InputError, PlatformError: as there, for the folder or file as a whole.
    """
    source = frames.read(path, inputs=inputs)
    for index in range(len(source)):
        try:
            yield Arrival(*source.at(index))
        except InputError as error:
            yield Arrival(Path(error.where).name or f"frame {index}", None, error)


def from_pipe(pipe: IO[bytes], inputs: Sequence[str]) -> Iterator[Arrival]:
    """The frames that come through a pipe, until it is closed.

    Args:
        pipe: binary, buffered; need not be seekable.
        inputs: the model's input names.

    Raises:
        InputError: BNF-R032 a frame breaks off or is damaged: where the next one begins is not known;
            BNF-R033 neither frames nor lines of paths, or frames for a model with several inputs.
    """
    head = pipe.read(3)
    if head[:1] == images.NUMPY[:1]:
        yield from _one_after_another(head, pipe, inputs, _array)
    elif head[:2] in (b"P5", b"P6") and head[2:].isspace():
        yield from _one_after_another(head, pipe, inputs, _image)
    else:
        yield from _paths(head, pipe, inputs)


def _one_after_another(
    head: bytes, pipe: IO[bytes], inputs: Sequence[str], read: Callable[[IO[bytes], str], Array]
) -> Iterator[Arrival]:
    """Frames that say themselves where they end."""
    if len(inputs) > 1:
        raise InputError(
            "BNF-R033",
            f"frames in a pipe do not say which of the inputs they are for ({', '.join(inputs)})",
            where="standard input",
            fix="write the paths of .npz files, one a line, with an array per input",
        )
    number = 0
    while head:
        name = f"frame {number}"
        try:
            array = read(_Joined(head, pipe), name)  # type: ignore[arg-type]
        except MemoryError:
            raise
        except Exception as error:  # numpy reads the header with tokenize and ast, which raise what they like
            what = error.what if isinstance(error, InputError) else error
            raise InputError(
                "BNF-R032",
                f"the pipe breaks off or is damaged in {name}: {what}",
                where="standard input",
                fix="write whole frames, .npy or PPM, and nothing else",
            ) from error
        yield Arrival(name, array)
        number += 1
        head = pipe.read(3)


def _array(pipe: IO[bytes], name: str) -> Array:
    array: Array = np.lib.format.read_array(pipe, allow_pickle=False)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"it holds {array.dtype}")
    return array


def _image(pipe: IO[bytes], name: str) -> Array:
    """A raw PGM or PPM: its header byte by byte, then the pixels that it announces."""
    header, numbers, comment = pipe.read(2), 0, False
    inside = False
    while numbers < 3:
        byte = pipe.read(1)
        if not byte or len(header) > _LONGEST:
            raise ValueError("the header of an image does not end")
        header += byte
        comment = (comment or byte == b"#") and byte != b"\n"
        digit = byte.isdigit() and not comment
        numbers += inside and not digit
        inside = digit
    width, height = _NUMBERS.findall(_COMMENT.sub(b"", header[2:]))[:2]
    count = int(width) * int(height) * (3 if header[:2] == b"P6" else 1)
    if count > images.MOST_BYTES:
        raise ValueError(f"an image of {count:,} bytes")
    return images.decode(header + pipe.read(count), name)


class _Joined:
    """Bytes that were read already, and the rest of the pipe."""

    def __init__(self, begun: bytes, pipe: IO[bytes]) -> None:
        self._begun = io.BytesIO(begun)
        self._pipe = pipe

    def read(self, size: int = -1, /) -> bytes:
        begun = self._begun.read(size)
        return begun + self._pipe.read(size - len(begun)) if len(begun) < size else begun


def _paths(head: bytes, pipe: IO[bytes], inputs: Sequence[str]) -> Iterator[Arrival]:
    *whole, rest = head.split(b"\n")  # the first bytes may hold ends of lines already
    for line in itertools.chain(whole, _lines(rest, pipe)):
        if b"\0" in line or head.startswith((images.PNG[:3], images.JPEG)) or len(line) >= _LONGEST:
            raise InputError(
                "BNF-R033",
                "neither .npy arrays, PPM images nor lines of paths",
                where="standard input",
                fix="write frames as .npy or PPM, or their paths, one a line",
            )
        name = os.fsdecode(line).rstrip("\r\n")
        if not name:
            continue
        if Path(name).suffix.lower() == ".npz":
            try:
                yield from from_path(name, inputs)
            except InputError as error:
                yield Arrival(name, None, error)
            continue
        try:
            yield Arrival(name, images.read(name))
        except InputError as error:
            yield Arrival(name, None, error)


def _lines(rest: bytes, pipe: IO[bytes]) -> Iterator[bytes]:
    while line := rest + pipe.readline(_LONGEST):
        rest = b""
        yield line
