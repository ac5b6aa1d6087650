"""The archive of an artifact: read where it is of bnfold's own form, else left to zipfile."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import pytest

from bnfold import container, plain_archive

MODEL = b"\x10\x00\x00\x00TFL3" + bytes(range(64)) + b"PK\x05\x06" + bytes(80)
MEMBERS = {"bnfold.json": '{"labels":["größe"]}', "labels.txt": "größe\n"}
MOST = 2**20
JOINED = container.join_tflite(MODEL, MEMBERS)


def test_what_bnfold_writes() -> None:
    found = {name: text.encode() for name, text in MEMBERS.items()}
    assert plain_archive.read(JOINED, MOST) == (len(MODEL), found)
    assert plain_archive.read(JOINED, sum(map(len, found.values()))) == (len(MODEL), found)
    assert plain_archive.read(JOINED, sum(map(len, found.values())) - 1) is None


def test_any_flipped_bit_is_refused_or_changes_nothing() -> None:
    """What decides nothing: who made it, and the attributes."""
    good = plain_archive.read(JOINED, MOST)
    unnoticed = 0
    for place in range(len(MODEL), len(JOINED)):
        for bit in range(8):
            flipped = bytearray(JOINED)
            flipped[place] ^= 1 << bit
            found = plain_archive.read(bytes(flipped), MOST)
            assert found in (None, good), (place, bit)
            unnoticed += found is not None
    assert unnoticed <= len(MEMBERS) * 8 * (2 + 4 + 2 + 2)


def test_cut_off_anywhere_or_with_something_behind() -> None:
    for length in range(len(JOINED)):
        assert plain_archive.read(JOINED[:length], MOST) is None
    assert plain_archive.read(JOINED + b"\0", MOST) is None


def zipped(write: Callable[[zipfile.ZipFile], None], mode: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    file.write(MODEL)
    with zipfile.ZipFile(file, "w", mode) as archive:
        write(archive)
    return file.getvalue()


def twice(archive: zipfile.ZipFile) -> None:
    archive.writestr("bnfold.json", "{}")
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("bnfold.json", "[]")


def with_a_comment(archive: zipfile.ZipFile) -> None:
    archive.writestr("bnfold.json", "{}")
    archive.comment = b"of mine"


def streamed(archive: zipfile.ZipFile) -> None:
    with archive.open("bnfold.json", "w", force_zip64=True) as member:
        member.write(b"{}")


@pytest.mark.parametrize(
    ("write", "mode"),
    [
        (lambda archive: archive.writestr("bnfold.json", "{}" * 99), zipfile.ZIP_DEFLATED),
        (lambda archive: archive.writestr("größe.txt", "{}"), zipfile.ZIP_STORED),
        (lambda archive: [archive.writestr(str(number), "") for number in range(17)], zipfile.ZIP_STORED),
        (lambda archive: None, zipfile.ZIP_STORED),
        (twice, zipfile.ZIP_STORED),
        (with_a_comment, zipfile.ZIP_STORED),
        (streamed, zipfile.ZIP_STORED),
    ],
)
def test_legal_archives_of_another_form(write: Callable[[zipfile.ZipFile], None], mode: int) -> None:
    assert plain_archive.read(zipped(write, mode), MOST) is None


def test_a_gap_between_members_and_one_inside_another() -> None:
    data = bytearray(zipped(lambda archive: [archive.writestr(name, "x" * 40) for name in "abc"]))  # type: ignore[func-returns-value]
    assert plain_archive.read(bytes(data), MOST) is not None
    offset = data.rindex(b"PK\x01\x02") + 42  # of the last member
    at = int.from_bytes(data[offset : offset + 4], "little")
    for wrong in (0, at - 1, at + 1, 2**32 - 1):
        data[offset : offset + 4] = wrong.to_bytes(4, "little")
        assert plain_archive.read(bytes(data), MOST) is None
