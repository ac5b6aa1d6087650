"""The zip container of torch.save, checked before torch sees it.

torch.load does not check the CRC of the members, so a flipped bit becomes a wrong weight in silence. Here
every member is streamed once, in pieces, against its CRC.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from pathlib import Path

from bnfold.errors import CheckpointError
from bnfold.wording import clip, clip_path, count, first_line

_PIECE = 1 << 20
# torch.save stores members uncompressed, so they never add up to more than the file
_MOST_GROWTH = 4
_SLACK = 1 << 20
# what torch's reader understands
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_FOLDER_FLAG = 0x10
# whatever zipfile and the decompressors raise over bytes that are not what they should be
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ValueError,
    NotImplementedError,
    EOFError,
    OSError,
)


def check(path: Path) -> bool:
    """Checks structure, declared sizes and CRCs of a torch.save archive.

    Returns:
        Whether the members carry checksums: ``torch.serialization.set_crc32_options(False)`` writes none.

    Raises:
        CheckpointError: L008 (some other zip), L022 to L025.
    """
    name = clip_path(path.name)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _identify(path, [member.filename for member in members])
            _check_sizes(path, members)
            _check_directory(members)
            if all(member.CRC == 0 for member in members):
                return False
            for member in members:
                _check_crc(path, archive, member)
    except _DAMAGE as error:
        raise CheckpointError(
            "BNF-L022",
            f"{name} is a truncated or damaged zip archive",
            where=f"{path.stat().st_size:,} bytes; {first_line(error)}",
            fix="copy or download it again, and compare its size or sha256 with the source's",
        ) from error
    return True


def _identify(path: Path, members: list[str]) -> None:
    """Raises unless the members are those of torch.save."""
    name = clip_path(path.name)
    inner = {member.partition("/")[2] for member in members}
    if "constants.pkl" in inner:
        raise CheckpointError(
            "BNF-L025",
            f"{name} is a TorchScript archive: a compiled program, not a state dict",
            where=f"{clip(members[0], 40)} and {count(len(members) - 1, 'other member')}",
            fix=f'torch.save(torch.jit.load("{name}").state_dict(), "weights.pt"), then give weights.pt',
        )
    if "data.pkl" not in inner:
        exported = any(member.endswith("archive_format") for member in members)
        raise CheckpointError(
            "BNF-L008",
            f"{name} is {'a torch.export program' if exported else 'a zip archive'}, not a checkpoint",
            where=f"{count(len(members), 'member')}, no data.pkl"
            + (f"; the first is {clip(members[0], 40)}" if members else ""),
            fix='save the weights: torch.save(m.state_dict(), "weights.pt")',
        )


def _check_sizes(path: Path, members: list[zipfile.ZipInfo]) -> None:
    size = path.stat().st_size
    declared = sum(member.file_size for member in members)
    if declared > _MOST_GROWTH * size + _SLACK:
        largest = max(members, key=lambda member: member.file_size)
        raise CheckpointError(
            "BNF-L024",
            f"{clip_path(path.name)} would unpack to {declared:,} bytes, {declared // size:,} times its size",
            where=f"member {clip(largest.filename, 40)}: {largest.file_size:,} bytes",
            fix="torch.save does not compress: do not use this file",
        )


def _check_directory(members: list[zipfile.ZipInfo]) -> None:
    """Raises BadZipFile where torch's reader would see another content than the one whose CRC is checked.

    It takes a member that is flagged as a folder, or whose stored size is 0, for empty: it reports success
    and leaves the tensor's memory as it found it.
    """
    for member in members:
        name = clip(member.filename, 40)
        if member.external_attr & _FOLDER_FLAG and member.file_size:
            raise zipfile.BadZipFile(f"{name} is flagged as a folder and has {member.file_size:,} bytes")
        if member.compress_type not in _METHODS:
            raise zipfile.BadZipFile(f"{name}: compression method {member.compress_type}")
        if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
            raise zipfile.BadZipFile(
                f"{name} is stored in {member.compress_size:,} bytes and has {member.file_size:,}"
            )
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise zipfile.BadZipFile(f"two members are named {clip(twice, 40)}")


def _check_crc(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    try:
        with archive.open(member) as stream:
            while stream.read(_PIECE):
                pass
    except zipfile.BadZipFile as error:
        if "CRC" not in str(error):
            raise
        raise CheckpointError(
            "BNF-L023",
            f"{clip_path(path.name)} is damaged: a member does not match its checksum (CRC-32)",
            where=f"member {clip(member.filename, 40)}, {member.file_size:,} bytes",
            fix="copy or download it again; nothing of it was used",
        ) from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or a compression unknown to zipfile
        raise zipfile.BadZipFile(f"{clip(member.filename, 40)}: {error}") from error
