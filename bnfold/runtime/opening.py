"""An artifact opened by its path: what was checked is what runs, without a copy of the file in memory.

The file is mapped and checked, then the interpreter opens it by its path, and then it is asked whether
that was the same file and nobody wrote to it meanwhile; if somebody did, its bytes are read and decide.
Timestamps tell that only of a file that was left alone for a while before: a younger one is read, too.

A TFLite interpreter keeps the file mapped and reads weights from it with every answer. Whoever replaces
the file by renaming another over it, as bnfold does, leaves it the old one. Writing into it changes the
answers, and cutting it short ends the process that reads on. So every answer is preceded by a look at the
file's size, and followed by one at its timestamps, together some 35 microseconds when the network has put all
else out of the cache; where these have moved, the file is checked again. A small TFLite file is read instead:
that costs less than the looks, which a small network feels, and nobody can write to what was read.
"""

from __future__ import annotations

import os
import time
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bnfold import manifest as manifest_file
from bnfold.errors import ArtifactError, PlatformError
from bnfold.files import reading, refuse_special

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bnfold.runtime.session import Array, Run

SETTLED_NS = 3_000_000_000  # FAT counts in two seconds
SMALL_TFLITE = 8 << 20  # bytes; to read more delays the start

_Stamp: TypeAlias = tuple[int, ...]


def hold(path: str | os.PathLike[str]) -> Held | None:
    """The artifact at ``path``, open and mapped; None where its bytes are to be read instead.

    Raises:
        ArtifactError: BNF-M001 no such file.
        PlatformError: BNF-P015 it cannot be read; BNF-P016 a pipe or a device.
    """
    refuse_special(path)
    with reading(path):
        held = Held(os.fspath(path))
    if held.mapped is None or time.time_ns() - max(held.stamp[-2:]) <= SETTLED_NS:
        return None
    small = len(held.mapped) <= SMALL_TFLITE and manifest_file.detect(held.mapped) == "tflite"
    return None if small else held


class Held:
    """A file that is held open, so that it can be asked whether it is still what it was.

    Attributes:
        path: as it was given.
        stamp: device, file number, size, and the times of the last changes of content and state, in ns.
        mapped: the file's bytes; None where they cannot be mapped, and after :meth:`read`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115 (closed when this object goes)
        self._number = self._file.fileno()
        self.stamp = _stamp(os.fstat(self._number))
        self._integrity: Any = None
        try:
            self.mapped: mmap | None = mmap(self._number, 0, access=ACCESS_READ)
        except (ValueError, OSError):  # an empty file; a file system without it
            self.mapped = None

    def __del__(self) -> None:
        if (file := getattr(self, "_file", None)) is not None:
            file.close()

    def read(self) -> manifest_file.Manifest:
        """The manifest, checked against the file's bytes; the mapping is given back.

        Raises:
            ArtifactError: as :func:`bnfold.manifest.parse`.
        """
        assert self.mapped is not None, "read once"
        mapped, self.mapped = self.mapped, None
        manifest = manifest_file.parse(mapped, where=self.path)
        self._integrity = manifest["integrity"]
        return manifest

    def in_place(self) -> bool:
        """Whether the path still leads to this file, and nothing was written to it since it was opened."""
        try:
            return _stamp(Path(self.path).stat()) == self.stamp
        except OSError:
            return False

    def watched(self, run: Run) -> Run:
        """``run`` between the two looks at the file: :meth:`expect` and :meth:`verify`."""

        def answer(arrays: Sequence[Array]) -> dict[str, Array]:
            self.expect()
            outputs = run(arrays)
            self.verify()
            return outputs

        return answer

    def expect(self) -> None:
        """Before an answer: raises where the file was cut short: reading from it would end the process.

        The size tells that, in less time than the timestamps take, which :meth:`verify` looks at afterwards.

        Raises:
            PlatformError: BNF-P080.
        """
        if os.lseek(self._number, 0, os.SEEK_END) != self.stamp[2]:
            self.verify()

    def verify(self) -> None:
        """After an answer: raises where the content of the open file is no longer what was checked.

        Raises:
            PlatformError: BNF-P080.
        """
        info = os.fstat(self._number)
        # a write moves both times, and the rest of the stamp stays; twice a frame, less counts
        if info.st_mtime_ns == self.stamp[-2] and info.st_ctime_ns == self.stamp[-1]:
            return
        found = _stamp(info)
        # also renaming, unlinking and touching it change the stamp
        with open(self._number, "rb", closefd=False) as file:
            file.seek(0)
            data = file.read()
        try:
            same = manifest_file.parse(data, where=self.path)["integrity"] == self._integrity
        except ArtifactError:
            same = False
        if not same:
            raise PlatformError(
                "BNF-P080",
                "the artifact's file was written into while it was open, and the interpreter reads from it",
                where=self.path,
                fix="open it again; replace artifacts by renaming, or open with in_memory=True",
            )
        self.stamp = found


def _stamp(info: os.stat_result) -> _Stamp:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
