"""The checksum of an artifact: a CRC-32 of the model's bytes, folded, and of the document that goes with it.

To fold is to write the bytes in rows and to combine the rows by exclusive or, which goes as fast as memory
gives them: a CRC-32 of the whole was most of what opening a large file took. Damage within the length of one
row is noticed as surely as by that, all but one time in 2**32. Further apart, two changes cancel that flip
the same bits at the same place of their rows; a row has an odd number of words, so that blocks of disks and
transfers, whose sizes are powers of two, rarely lie so (those of 4 KiB only at multiples of 16 MB).

Standard library only: numpy does it faster, and is taken where it is loaded already, as in the runtime; to
import it for this would take longer than it saves.
"""

from __future__ import annotations

import sys
import zlib

__all__ = ["ROW", "checksum", "fold"]

_WORDS = 4095
ROW = 8 * _WORDS  # bytes


def checksum(model: bytes | memoryview, *document: bytes | memoryview) -> int:
    """32 bits of the model's own bytes and of the pieces of its document."""
    value = zlib.crc32(fold(model))
    for piece in document:
        value = zlib.crc32(piece, value)
    return value


def fold(model: bytes | memoryview) -> bytes:
    """The exclusive or of the rows of ``model``, the last one filled up with zeros: :data:`ROW` bytes."""
    return _by_integers(model) if sys.modules.get("numpy") is None else _by_words(model)


def _by_words(model: bytes | memoryview) -> bytes:
    import numpy as np  # loaded; or another thread is at it, and this waits

    rows, rest = divmod(len(model), ROW)
    words = np.frombuffer(model, dtype=np.uint64, count=rows * _WORDS).reshape(rows, _WORDS)
    folded = np.bitwise_xor.reduce(words, axis=0)
    folded.view(np.uint8)[:rest] ^= np.frombuffer(model, dtype=np.uint8, count=rest, offset=rows * ROW)
    return bytes(folded)


def _by_integers(model: bytes | memoryview) -> bytes:
    folded = 0
    for start in range(0, len(model), ROW):
        folded ^= int.from_bytes(model[start : start + ROW], "little")
    return folded.to_bytes(ROW, "little")
