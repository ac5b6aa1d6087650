"""The ZIP archive at the end of a TFLite artifact, where it is exactly of the form that bnfold writes.

That is all that opening an artifact needs, and the standard library's zipfile takes longer to import than
a TFLite interpreter. Anything else, be it legal, damaged or hostile, is left to zipfile, which decides.
"""

from __future__ import annotations

import struct
import zlib
from mmap import mmap

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_MOST_MEMBERS = 16


def read(data: bytes | mmap, most: int) -> tuple[int, dict[str, bytes]] | None:
    """Where the archive starts, and its members by name; None where it is of another form.

    The form: a few members, stored, with ASCII names, one behind the other without gaps, then the directory
    and the end record, nothing after it; what the directory says is what stands before each member; every
    CRC-32 is right; the members have at most ``most`` bytes together.
    """
    end = len(data) - _END.size
    if end < 0:
        return None
    mark, disk, of_disk, here, count, size, directory, comment = _END.unpack_from(data, end)
    if mark != _END_MARK or disk or of_disk or comment or here != count or not 0 < count <= _MOST_MEMBERS:
        return None
    if directory + size != end:
        return None
    members: dict[str, bytes] = {}
    start = following = None
    place = directory
    for _ in range(count):
        if place + _CENTRAL.size > end:
            return None
        mark, _, *told, extra, remark, _, _, _, at = _CENTRAL.unpack_from(data, place)
        version, flags, method, _, _, crc, packed, length, named = told
        place += _CENTRAL.size
        name = data[place : place + named]
        place += named
        start, following = (at, at) if following is None else (start, following)
        first = at + _LOCAL.size + named
        if mark != _CENTRAL_MARK or extra or remark or at != following or first + length > directory:
            return None
        if _LOCAL.unpack_from(data, at) != (_LOCAL_MARK, *told, 0):
            return None
        if data[at + _LOCAL.size : first] != name:
            return None
        most -= length
        if version > 20 or flags or method or packed != length or most < 0 or not name.isascii():
            return None
        content = data[first : first + length]
        if zlib.crc32(content) != crc or members.setdefault(name.decode("ascii"), content) is not content:
            return None
        following = first + length
    return (start, members) if place == end and following == directory and start is not None else None
