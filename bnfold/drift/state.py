"""What a monitor remembers between frames, and how it is kept: a few kilobytes, whole or not at all.

File: ``BNFOLDMS``, version (uint16), length of the header (uint32), header (JSON), the layers (JSON) and the
arrays, both deflated, CRC-32 of all before it; little-endian. Counts and sums are integers, so that states of
many devices add up exactly, in any order.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold import atomic
from bnfold.drift.scale import Scale
from bnfold.errors import ArtifactError, PlatformError, UsageError
from bnfold.files import refuse_special

_MAGIC = b"BNFOLDMS"
_VERSION = 2  # version 1 had a window of 32 frames, and is read
_HEAD = struct.Struct("<8sHI")
THUMBNAIL = 1024
"""Values of the last frame that are kept, to know a repeat by."""
_MOST = 2**24


@dataclass
class Counts:
    """What has happened so far, in whole numbers.

    Attributes:
        devices: how many monitors these are the counts of.
        frames: given to the monitor.
        kept: that show something new, and entered the window.
        looks: comparisons of a window.
        alarms: looks that found drift; one until the monitor is reset.
        bad_inputs, bad_outputs: frames with values that are not finite, and finite frames that gave such.
        unusable: frames that could not be read, or that the network does not take.
    """

    devices: int = 1
    frames: int = 0
    kept: int = 0
    looks: int = 0
    alarms: int = 0
    bad_inputs: int = 0
    bad_outputs: int = 0
    unusable: int = 0


@dataclass
class State:
    """A monitor's memory.

    Attributes:
        key: of the network, its baseline and the columns: a state fits one monitor only.
        scale: what the codes mean.
        counts: see there.
        sums, squares: int64, shape (columns,): of the codes of all kept frames, and of their squares.
        ring: uint8, shape (window, columns): codes of the last kept frames; empty in a merged state.
        layout: uint8, shape (window, numbers): codes of their pictures' layout; no numbers where there is
            none to compare with.
        pictured: whether the layout counts: all kept frames in the window have one, and they are independent.
        filled: kept frames in the ring since it was last emptied, at most its length.
        since: kept frames since the last look.
        stride: distinct frames of which one is kept.
        passed: distinct frames since the last kept one.
        settled: whether the stride has been estimated.
        alarmed: whether drift was found and not reset.
        blamed: the layer and channels of that alarm; empty without one, and in a merged state.
        last: float16, shape (thumbnail,): the last distinct frame; empty before the first.
        last_codes: uint8, shape (columns,): its codes.
    """

    key: str
    sums: NDArray[np.int64]
    squares: NDArray[np.int64]
    ring: NDArray[np.uint8]
    scale: Scale
    counts: Counts = field(default_factory=Counts)
    filled: int = 0
    since: int = 0
    stride: int = 1
    passed: int = 0
    settled: bool = False
    alarmed: bool = False
    blamed: str = ""
    last: NDArray[np.float16] = field(default_factory=lambda: np.empty(0, dtype=np.float16))
    last_codes: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, dtype=np.uint8))
    layout: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0), dtype=np.uint8))
    pictured: bool = False

    @classmethod
    def new(cls, key: str, scale: Scale, window: int, numbers: int = 0) -> State:
        """Of a monitor that has seen nothing; ``numbers``: of a picture's layout."""
        columns = len(scale.zero)
        zeros = np.zeros(columns, dtype=np.int64)
        codes = np.zeros((window, columns), dtype=np.uint8)
        return cls(
            key, zeros, zeros.copy(), codes, scale, last_codes=np.zeros(columns, dtype=np.uint8),
            layout=np.zeros((window, numbers), dtype=np.uint8), pictured=numbers > 0,
        )  # fmt: skip

    @property
    def window(self) -> NDArray[np.uint8]:
        """Shape (filled, columns): codes of the kept frames since the ring was last emptied."""
        return self.ring[len(self.ring) - self.filled :]

    def keep(self, codes: NDArray[np.uint8], layout: NDArray[np.uint8] | None = None) -> None:
        """A frame that shows something new: into the window, the sums and the counts."""
        self.ring[:-1] = self.ring[1:]
        self.ring[-1] = codes
        if self.pictured and layout is not None:
            self.layout[:-1] = self.layout[1:]
            self.layout[-1] = layout
        else:
            self.pictured = False
        wide = codes.astype(np.int64)
        self.sums += wide
        self.squares += wide * wide
        self.counts.kept += 1
        self.filled = min(self.filled + 1, len(self.ring))
        self.since += 1

    def empty(self) -> None:
        """Forget the window, not the sums."""
        self.filled = self.since = 0

    def lengthen(self, window: int) -> None:
        """Make room for more kept frames; those that are there stay."""
        missing = window - len(self.ring)
        if missing > 0:
            self.ring = np.concatenate([np.zeros((missing, self.ring.shape[1]), np.uint8), self.ring])

    def to_bytes(self) -> bytes:
        """The file's content."""
        layers = json.dumps(self.scale.to_json(), separators=(",", ":")).encode()
        header = {
            "key": self.key,
            "counts": vars(self.counts),
            "columns": len(self.sums),
            "window": len(self.ring),
            "numbers": self.layout.shape[1],
            "thumbnail": len(self.last),
            **{name: getattr(self, name) for name in _PLAIN},
            "scale": len(layers),
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        arrays = (
            self.sums.astype("<i8"), self.squares.astype("<i8"), self.ring, self.last_codes,
            self.last.astype("<f2"), self.scale.zero.astype("<f2"), self.scale.step.astype("<f2"),
            self.layout,
        )  # fmt: skip
        packed = zlib.compress(layers + b"".join(array.tobytes() for array in arrays), 9)
        body = _HEAD.pack(_MAGIC, _VERSION, len(text)) + text + packed
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str = "state") -> State:
        """The reverse of :meth:`to_bytes`.

        Raises:
            ArtifactError: BNF-M031 damaged, or no monitor's state; BNF-M032 written by a newer bnfold.
        """
        if len(data) < _HEAD.size + 4 or not data.startswith(_MAGIC):
            raise ArtifactError(
                "BNF-M031",
                "this is no monitor's state, and it is left as it is",
                where=where,
                fix="name a file that bnfold monitor --state wrote, or a new one to begin with",
            )
        _, version, length = _HEAD.unpack_from(data)
        if version > _VERSION:
            raise ArtifactError(
                "BNF-M032",
                f"the state has version {version}; this bnfold reads up to {_VERSION}",
                where=where,
                fix="update bnfold here",
            )
        if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise _damaged("its checksum does not fit", where)
        try:
            header = json.loads(data[_HEAD.size : _HEAD.size + length])
            if version == 1:
                header |= {"numbers": 0, "pictured": False}
            return cls._read(header, data[_HEAD.size + length : -4])
        except (ValueError, KeyError, TypeError, RecursionError, zlib.error) as error:
            raise _damaged(str(error), where) from error

    @classmethod
    def _read(cls, header: dict[str, Any], packed: bytes) -> State:
        names = ("columns", "window", "thumbnail", "numbers", "scale")
        columns, window, thumbnail, pictures, layers = given = tuple(header[name] for name in names)
        if not all(type(size) is int and 0 <= size < _MOST for size in given):
            raise ValueError("its sizes are no sizes")
        counts = Counts(**header["counts"])
        if not all(type(number) is int and number >= 0 for number in vars(counts).values()):
            raise ValueError("its counts are no counts")
        numbers = (8 * columns, 8 * columns, window * columns, columns, 2 * thumbnail)
        sizes = (*numbers, 2 * columns, 2 * columns, window * pictures, layers)
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, sum(sizes) + 1)  # no more memory than the sizes say
        if sum(sizes) != len(data) or not unpacker.eof:
            raise ValueError(f"{len(data)} bytes of arrays, {sum(sizes)} expected")
        document, data = json.loads(data[:layers]), data[layers:]
        ends = np.cumsum(sizes[:-1])
        parts = [data[end - size : end] for size, end in zip(sizes, ends, strict=False)]
        plain: dict[str, Any] = {name: header[name] for name in _PLAIN}
        for name, value in plain.items():
            expected = {"settled": bool, "alarmed": bool, "pictured": bool, "blamed": str}.get(name, int)
            if type(value) is not expected or (type(value) is int and value < 0):
                raise ValueError(f"{name} is {value!r}")
        if plain["filled"] > window or plain["stride"] < 1:
            raise ValueError("its window is fuller than it is long")
        return cls(
            str(header["key"]),
            np.frombuffer(parts[0], dtype="<i8").astype(np.int64),
            np.frombuffer(parts[1], dtype="<i8").astype(np.int64),
            np.frombuffer(parts[2], dtype=np.uint8).reshape(window, columns).copy(),
            Scale.from_json(
                document, *(np.frombuffer(part, "<f2").astype(np.float16) for part in parts[5:7])
            ),
            counts,
            layout=np.frombuffer(parts[7], dtype=np.uint8).reshape(window, pictures).copy(),
            last=np.frombuffer(parts[4], dtype="<f2").astype(np.float16),
            last_codes=np.frombuffer(parts[3], dtype=np.uint8).copy(),
            **plain,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Replaces the file at ``path`` in one step.

        Raises:
            PlatformError: as :func:`bnfold.atomic.write`.
        """
        atomic.write(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> State:
        """Reads a file that :meth:`save` wrote.

        Raises:
            ArtifactError: BNF-M001 there is no such file; BNF-M031, BNF-M032 as :meth:`from_bytes`.
            PlatformError: BNF-P015 it cannot be read; BNF-P016 a pipe or a device.
        """
        refuse_special(path)
        try:
            data = Path(path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ArtifactError("BNF-M001", f"no state here: {error.strerror}", where=str(path)) from error
        except OSError as error:
            raise PlatformError(
                "BNF-P015", f"cannot read the file: {error.strerror}", where=str(path)
            ) from error
        return cls.from_bytes(data, where=str(path))


_PLAIN = ("filled", "since", "stride", "passed", "settled", "alarmed", "blamed", "pictured")


def merge(states: Iterable[State]) -> State:
    """What many devices saw: counts and sums, added exactly; the order does not matter. Windows are not kept.

    Raises:
        UsageError: BNF-U144 there are none; BNF-U145 they are of different networks or baselines.
    """
    parts = list(states)
    if not parts:
        raise UsageError("BNF-U144", "no states to merge", where="merge")
    first = parts[0]
    total = State.new(first.key, first.scale, 0)
    total.counts = Counts(**dict.fromkeys(vars(Counts()), 0))
    for part in parts:
        if part.key != first.key or not part.scale.same(first.scale):
            raise UsageError(
                "BNF-U145",
                f"states of different monitors: {first.key[:12]} and {part.key[:12]}",
                where="merge",
                fix="merge the devices that run the same file apart from the others",
            )
        total.sums += part.sums
        total.squares += part.squares
        total.alarmed |= part.alarmed
        for item in fields(Counts):
            setattr(
                total.counts, item.name, getattr(total.counts, item.name) + getattr(part.counts, item.name)
            )
    return total


def _damaged(what: str, where: str) -> ArtifactError:
    return ArtifactError(
        "BNF-M031",
        f"the monitor's state is damaged: {what}",
        where=where,
        fix="remove the file: the monitor begins anew",
    )
