"""Every bit of a torch.save archive counts: damage is refused, or changes nothing."""

from __future__ import annotations

import random
import struct
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from bnfold.checkpoint import archive, read
from bnfold.errors import CheckpointError
from tests.checkpoint.files import error_of, saved, trained
from tests.damaged import entry_of, torch_bytes


def test_a_good_archive_has_checksums(tmp_path: Path) -> None:
    assert archive.check(saved(tmp_path / "a.pt", trained())) is True


def test_an_archive_without_checksums_says_so(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "a.pt", trained())
    finally:
        torch.serialization.set_crc32_options(True)
    assert archive.check(path) is False


def payload(content: bytes) -> list[tuple[str, int, int]]:
    """Name, start and end of each member's bytes."""
    import io

    spans = []
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        for member in opened.infolist():
            name, extra = struct.unpack_from("<HH", content, member.header_offset + 26)
            start = member.header_offset + 30 + name + extra
            spans.append((member.filename, start, start + member.file_size))
    return spans


def test_a_flipped_bit_in_any_member_is_named(tmp_path: Path) -> None:
    content = torch_bytes(trained())
    rng = random.Random(0)
    members = [span for span in payload(content) if span[2] > span[1]]
    assert len(members) >= 12
    for name, start, end in members:
        for place in {start, end - 1, rng.randrange(start, end)}:
            flipped = bytearray(content)
            flipped[place] ^= 1 << rng.randrange(8)
            (tmp_path / "a.pt").write_bytes(flipped)
            assert f"member {name}," in error_of(lambda: read(tmp_path / "a.pt"), "L023").where


def test_a_flipped_bit_between_the_members_is_refused_or_harmless(tmp_path: Path) -> None:
    """Names, sizes, flags: torch's reader and zipfile do not look at the same fields."""
    torch.set_num_threads(1)
    state = trained()
    content = torch_bytes(state)
    inside = {place for _, start, end in payload(content) for place in range(start, end)}
    outside = [place for place in range(len(content)) if place not in inside]
    # the central directory and the local headers' first bytes; what is left is padding
    directory = content.index(b"PK\x01\x02")
    rng = random.Random(0)
    places = [p for p in outside if p >= directory]
    places = rng.sample(places, 250) + rng.sample([p for p in outside if p < directory], 150)
    outcomes: Counter[str] = Counter()
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        (tmp_path / "a.pt").write_bytes(flipped)
        try:
            found = read(tmp_path / "a.pt").pick()
        except CheckpointError as error:
            outcomes[error.code] += 1
        else:
            outcomes["same"] += 1
            assert all(found[key].equal(value) for key, value in state.items()), place
    assert outcomes["BNF-L022"] > 50, outcomes
    assert outcomes["same"] > 50, outcomes


@pytest.mark.parametrize(
    ("offset", "value", "told"),
    [(38, b"\x10", "flagged as a folder"), (20, bytes(4), "is stored in 0 bytes")],
    ids=["folder", "size"],
)
def test_a_member_that_torch_would_take_for_empty(
    tmp_path: Path, offset: int, value: bytes, told: str
) -> None:
    content = bytearray(torch_bytes(trained()))
    place = entry_of(bytes(content), "archive/data/0") + offset
    content[place : place + len(value)] = value
    (tmp_path / "a.pt").write_bytes(content)
    assert told in error_of(lambda: read(tmp_path / "a.pt"), "L022").where


def packed(path: Path, method: int) -> Path:
    """A torch.save archive in another compression: repacked by hand."""
    source = saved(path.with_suffix(".source"), trained())
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", method) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return path


def test_a_compressed_archive_is_read(tmp_path: Path) -> None:
    found = read(packed(tmp_path / "a.pt", zipfile.ZIP_DEFLATED)).pick()
    assert all(found[key].equal(value) for key, value in trained().items())


def test_a_compression_that_torch_lacks_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.pt", zipfile.ZIP_LZMA)
    assert "compression method 14" in error_of(lambda: read(path), "L022").where


def test_damage_to_a_compressed_member(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.pt", zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    rng = random.Random(0)
    spans = [span for span in payload(content) if span[0].endswith("data.pkl")]
    codes: Counter[str] = Counter()
    for _ in range(60):
        broken = bytearray(content)
        broken[rng.randrange(spans[0][1], spans[0][1] + 100)] ^= 0xFF
        path.write_bytes(broken)
        with pytest.raises(CheckpointError) as caught:
            read(path)
        codes[caught.value.code] += 1
    assert codes.keys() == {"BNF-L022", "BNF-L023"}


def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", trained())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as opened:
        opened.writestr("archive/data/0", bytes(72))
    assert "two members are named archive/data/0" in error_of(lambda: read(path), "L022").where


def test_an_exported_program_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as opened:  # the members of torch.export.save, in short
        opened.writestr("a/archive_format", "pt2")
        opened.writestr("a/models/model.json", "{}")
    assert "a torch.export program" in error_of(lambda: read(tmp_path / "a.pt2"), "L008").what
