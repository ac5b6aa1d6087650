"""The checksum of an artifact: the same value by numpy and without it, and what changes it."""

from __future__ import annotations

import subprocess
import sys
import zlib
from itertools import pairwise

import numpy as np
import pytest

from bnfold import checksum as module
from bnfold.checksum import ROW, checksum, fold

SIZES = [0, 1, 7, 8, ROW - 1, ROW, ROW + 1, 2 * ROW, 5 * ROW + 13]


def content(size: int) -> bytes:
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_by_numpy_by_the_standard_library_and_by_hand(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = content(size)
    expected = bytearray(ROW)
    for position, byte in enumerate(data):
        expected[position % ROW] ^= byte
    # a view that starts at an odd address, as the bytes of a file may
    shifted = memoryview(b"x" + data)[1:]
    assert fold(data) == fold(shifted) == expected
    monkeypatch.delitem(sys.modules, "numpy")
    assert fold(data) == fold(shifted) == expected
    assert checksum(data, b"document") == zlib.crc32(b"document", zlib.crc32(expected))


def test_which_of_both_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy none is imported, and with it the slower way is left alone."""
    program = (
        "import sys; from bnfold.checksum import checksum; print(checksum(bytes(99)), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(checksum(bytes(99))), "False"]

    def never(_model: bytes) -> bytes:
        raise AssertionError("the slower way was taken")

    monkeypatch.setattr(module, "_by_integers", never)
    fold(b"model")


def test_every_flipped_bit_of_a_model_and_its_document_is_noticed() -> None:
    model, document = content(3 * ROW + 5), b'{"schema":1}'
    right = checksum(model, document)
    generator = np.random.default_rng(0)
    for bit in [0, 8 * len(model) - 1, *generator.integers(0, 8 * len(model), 200)]:
        changed = bytearray(model)
        changed[bit // 8] ^= 1 << bit % 8
        assert checksum(bytes(changed), document) != right
    for bit in range(8 * len(document)):
        edited = bytearray(document)
        edited[bit // 8] ^= 1 << bit % 8
        assert checksum(model, bytes(edited)) != right


@pytest.mark.parametrize("block", [1 << power for power in range(9, 21)])
def test_a_block_that_was_lost_or_took_anothers_place_is_noticed(block: int) -> None:
    """Blocks of disks and of transfers have powers of two as their sizes."""
    model = content(9 * block)
    right = checksum(model)
    blocks = [model[start : start + block] for start in range(0, len(model), block)]
    for first, second in [*pairwise(range(9)), (0, 2), (1, 5), (0, 8)]:
        moved = list(blocks)
        moved[first], moved[second] = moved[second], moved[first]
        assert checksum(b"".join(moved)) != right
        moved = list(blocks)
        moved[first] = blocks[second]
        assert checksum(b"".join(moved)) != right
        moved[first] = bytes(block)
        assert checksum(b"".join(moved)) != right


def test_pieces_of_a_document_are_one_document() -> None:
    assert checksum(b"model", b"do", memoryview(b"cument")) == checksum(b"model", b"document")
    assert checksum(b"model", b"document") != checksum(b"modeldocument")
