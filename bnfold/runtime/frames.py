"""A folder or a file of frames, read one at a time.

- A folder: images and ``.npy`` files, one frame each, in sorted order; hidden files, text and sub-folders are
  left alone. A ``labels.csv`` with the header ``file,label`` gives the class number of every frame.
- One ``.npy``: the first axis counts the frames. The file is mapped, not loaded.
- One ``.npz``: the same for each input, under its name; with one input the key may be anything. A key
  ``labels`` with integers, one per frame, gives the class numbers.
- One image: one frame.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from bnfold.errors import InputError, PlatformError
from bnfold.files import refuse_special
from bnfold.runtime import images
from bnfold.runtime.session import Array

Frame: TypeAlias = Array | dict[str, Array]

# an archive beyond both is made to fill the memory
_MOST_UNPACKED, _MOST_GROWTH = 2**30, 100

LABELS_FILE = "labels.csv"
LABELS_KEY = "labels"

_MOST_DIGITS = 9
_LARGEST_LABEL = 10**_MOST_DIGITS - 1

_UNREADABLE = (".bmp", ".gif", ".heic", ".npz", ".pam", ".pbm", ".tif", ".tiff", ".webp")


class FrameSource(ABC):
    """Frames in a fixed order; iterating yields (name, frame), again and again the same.

    A frame is an array, or for several inputs a dictionary of arrays by input name.

    Attributes:
        labels: class numbers, int64 of shape (len,), or None.
    """

    labels: Array | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def at(self, index: int) -> tuple[str, Frame]:
        """The name and the frame at a place, from 0; no other is read."""

    def __iter__(self) -> Iterator[tuple[str, Frame]]:
        return (self.at(index) for index in range(len(self)))


def read(path: str | os.PathLike[str], *, inputs: Sequence[str] | None = None) -> FrameSource:
    """The frames at ``path``.

    Args:
        path: a folder, an image, an ``.npy`` or an ``.npz``.
        inputs: the model's input names. With them an ``.npz`` is checked, and a key ``labels`` that is an
            input is not taken for class numbers.

    Raises:
        InputError: BNF-R001 nothing is there; BNF-R020 no frames; BNF-R021 labels that do not fit; BNF-R022
            arrays of an ``.npz`` that do not fit the inputs or each other; BNF-R023 a folder with images of a
            format that is not read; BNF-R024 an ``.npz`` that would unpack to far more than itself; while
            iterating, as :func:`bnfold.runtime.images.read`.
        PlatformError: BNF-P015 it cannot be read; BNF-P016 a pipe or a device.
    """
    place = Path(path)
    if place.is_dir():
        return _Folder(place)
    head = _head(place)
    if head.startswith(images.NUMPY):
        return _Stack(place)
    if head.startswith(b"PK"):
        return _Arrays(place, inputs)
    return _Files([place], None)


class _Files(FrameSource):
    """One frame per file."""

    def __init__(self, files: list[Path], labels: Array | None) -> None:
        self._files = files
        self.labels = labels

    def __len__(self) -> int:
        return len(self._files)

    def at(self, index: int) -> tuple[str, Frame]:
        file = self._files[index]
        return file.name, images.read(file)


class _Folder(_Files):
    def __init__(self, folder: Path) -> None:
        try:
            entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        except OSError as error:
            raise PlatformError("BNF-P015", f"cannot read: {error.strerror}", where=str(folder)) from error
        files = [entry for entry in entries if entry.suffix.lower() in images.SUFFIXES and entry.is_file()]
        others = [entry.name for entry in entries if entry.suffix.lower() in _UNREADABLE]
        if others:
            raise InputError(
                "BNF-R023",
                f"{len(others)} files of a format that is not read, {others[0]} first",
                where=str(folder),
                fix="convert them to PNG, or move them away",
            )
        if not files:
            folders = sum(entry.is_dir() for entry in entries)
            hint = f"; it has {folders} sub-folders, which are not searched" if folders else ""
            raise InputError(
                "BNF-R020",
                f"no frames in this folder{hint}",
                where=str(folder),
                fix=f"put frames directly into it ({', '.join(images.SUFFIXES)})",
            )
        table = folder / LABELS_FILE
        super().__init__(files, _labels_of_csv(table, files) if table.is_file() else None)


class _Stack(FrameSource):
    """One ``.npy`` whose first axis counts the frames."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._array = images.load_array(path, str(path), mmap_mode="r")
        self._length = _count(self._array, str(path))

    def __len__(self) -> int:
        return self._length

    def at(self, index: int) -> tuple[str, Frame]:
        return f"{self._name}[{index}]", np.array(self._array[index])  # a copy: not the map itself


class _Arrays(FrameSource):
    """One ``.npz``: an array per input, and perhaps labels."""

    def __init__(self, path: Path, inputs: Sequence[str] | None) -> None:
        self._name = path.name
        where = str(path)
        arrays, labels = _select(_load_npz(path), inputs or (), where)
        lengths = {name: _count(array, f"{where}, array {name!r}") for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise _misfit(f"the arrays have different numbers of frames ({told})", where)
        self._arrays = arrays
        self._length = next(iter(lengths.values()))
        self._single = len(arrays) == 1
        self.labels = None if labels is None else _checked_labels(labels, self._length, where)

    def __len__(self) -> int:
        return self._length

    def at(self, index: int) -> tuple[str, Frame]:
        frame = {name: array[index] for name, array in self._arrays.items()}
        return f"{self._name}[{index}]", next(iter(frame.values())) if self._single else frame


def _head(path: Path) -> bytes:
    refuse_special(path)
    try:
        with path.open("rb") as file:
            return file.read(8)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(
            "BNF-R001", f"no frames here: {getattr(error, 'strerror', None) or error}", where=str(path)
        ) from error
    except OSError as error:
        raise PlatformError("BNF-P015", f"cannot read the file: {error.strerror}", where=str(path)) from error


def _load_npz(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            arrays = {}
            for name in names:
                key = name.removesuffix(".npy")
                content = io.BytesIO(archive.read(name))  # read to the end, so that its CRC-32 is checked
                arrays[key] = images.load_array(content, f"{path}, array {key!r}")
            return arrays
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise InputError(
            "BNF-R003", f"the file is damaged: {error}", where=str(path), fix="copy the file again"
        ) from error


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises where unpacking would need a decompressor that numpy does not write for, or absurd memory."""
    members = archive.infolist()
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise zipfile.BadZipFile("an array is compressed in a way that numpy does not use")
    size, unpacked = path.stat().st_size, sum(member.file_size for member in members)
    if unpacked > _MOST_UNPACKED and unpacked > _MOST_GROWTH * size:
        raise InputError(
            "BNF-R024",
            f"its arrays would unpack to {unpacked:,} bytes, {unpacked // size:,} times the file",
            where=str(path),
            fix="real frames do not compress like that: save them with numpy.savez",
        )


def _select(
    arrays: dict[str, Array], inputs: Sequence[str], where: str
) -> tuple[dict[str, Array], Array | None]:
    """The inputs' arrays and the labels, if there are any."""
    labels = None
    if LABELS_KEY in arrays and LABELS_KEY not in inputs and len(arrays) > 1:
        labels = arrays.pop(LABELS_KEY)
    if not arrays:
        raise InputError("BNF-R020", "no arrays in this file", where=where, fix="save it with numpy.savez")
    if len(inputs) == 1 and inputs[0] in arrays:
        return {inputs[0]: arrays[inputs[0]]}, labels
    if (len(inputs) == 1 and len(arrays) > 1) or (len(inputs) > 1 and set(arrays) != set(inputs)):
        raise _misfit(f"its arrays are {', '.join(arrays)}; the model takes {', '.join(inputs)}", where)
    return arrays, labels


def _count(array: Array, where: str) -> int:
    """How many frames."""
    if array.ndim == 0 or len(array) == 0:
        what = "a single number" if array.ndim == 0 else f"shape {array.shape}"
        raise InputError(
            "BNF-R020", f"no frames: {what}", where=where, fix="the first axis counts the frames"
        )
    return len(array)


def _misfit(what: str, where: str) -> InputError:
    fix = "give each input one array under its name, all with as many frames"
    return InputError("BNF-R022", what, where=where, fix=fix)


def _bad_labels(what: str, where: str) -> InputError:
    return InputError(
        "BNF-R021", what, where=where, fix="give one class number, counted from 0, for every frame"
    )


def _checked_labels(labels: Array, count: int, where: str) -> Array:
    fits = labels.shape == (count,) and labels.dtype.kind in "iu"
    if not fits or not 0 <= int(labels.min()) <= int(labels.max()) <= _LARGEST_LABEL:
        raise _bad_labels(f"labels of {labels.dtype} {labels.shape} for {count} frames", where)
    return labels.astype(np.int64)


def _labels_of_csv(table: Path, files: list[Path]) -> Array:
    """Class numbers in the order of the files."""
    import csv

    where = str(table)
    try:
        with table.open(newline="", encoding="utf-8-sig") as text:
            rows = list(csv.reader(text, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _bad_labels(f"the table cannot be read: {error}", where) from error
    if not rows or [cell.strip() for cell in rows[0]] != ["file", "label"]:
        raise _bad_labels("the first line is not file,label", where)
    labels: dict[str, int] = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not row[1].strip().isdecimal() or len(row[1].strip()) > _MOST_DIGITS:
            raise _bad_labels(f"line {line} is not a file name and a class number", where)
        if row[0] in labels:
            raise _bad_labels(f"line {line} names {row[0]} again", where)
        labels[row[0]] = int(row[1])
    _same_names(labels, files, where)
    return np.array([labels[file.name] for file in files], dtype=np.int64)


def _same_names(labels: Mapping[str, int], files: list[Path], where: str) -> None:
    names = {file.name for file in files}
    without = [file.name for file in files if file.name not in labels]
    unknown = [name for name in labels if name not in names]
    if without:
        raise _bad_labels(f"{len(without)} frames have no label, {without[0]} first", where)
    if unknown:
        raise _bad_labels(
            f"{len(unknown)} labels are for files that are not there, {unknown[0]} first", where
        )
