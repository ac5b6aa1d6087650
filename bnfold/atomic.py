"""Writing a file so that its final name holds the old content or the new one, never half of either.

The bytes go to a temporary file in the same folder, are forced to the disk, and the file is renamed over the
target, which POSIX and Windows do in one step. The temporary file is removed whatever happens short of
``kill -9`` (Ctrl-C included); its name begins with a dot and ends in ``.tmp``, so that a left-over one is
never taken for an artifact.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from bnfold.errors import BnfoldError, PlatformError
from bnfold.files import special

_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_PLACE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP})


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces the content of ``path`` by ``data`` in one step.

    A symbolic link is followed, and an existing file keeps its permission bits; a new one gets those that the
    umask leaves.

    Raises:
        PlatformError: BNF-P010 the disk or the quota is full; BNF-P011 a limit on file sizes; BNF-P012 no
            permission, or a read-only file system; BNF-P013 the folder does not exist, or the target is one;
            BNF-P014 any other refusal of the operating system; BNF-P017 the target is a device, a pipe or a
            socket. The old content of ``path`` is untouched.
    """
    target = _target(path)
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        _write(target, temporary, data)
    except OSError as error:
        raise _explain(error, "write", Path(path), len(data)) from error


def check(path: str | os.PathLike[str]) -> None:
    """Refuses what :func:`write` would, as far as that can be told before a long computation.

    Raises:
        PlatformError: BNF-P012, BNF-P013, BNF-P017 as for :func:`write`.
    """
    target = _target(path)
    folder = target.parent
    if target.is_dir():
        number = errno.EISDIR
    elif not folder.is_dir():
        number = errno.ENOTDIR if folder.exists() else errno.ENOENT
    elif not os.access(folder, os.W_OK | os.X_OK):
        number = errno.EACCES
    else:
        return
    raise _explain(OSError(number, os.strerror(number)), "write", Path(path), None)


def remove(path: str | os.PathLike[str]) -> None:
    """Removes the file at ``path``, if there is one; a folder of that name is none of ours and stays.

    Raises:
        PlatformError: as for :func:`write`.
    """
    try:
        if not Path(path).is_dir():
            Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise _explain(error, "remove", Path(path), None) from error


def ensure_folder(path: str | os.PathLike[str]) -> None:
    """Makes the folder ``path``, and those above it, where they are missing.

    Raises:
        PlatformError: as for :func:`write`; BNF-P013 where ``path`` is a file.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise PlatformError(
            "BNF-P013",
            "the output folder is a file",
            where=str(path),
            fix="name a folder, or move the file away",
        ) from error
    except OSError as error:
        raise _explain(error, "make the folder", Path(path), None) from error


def _target(path: str | os.PathLike[str]) -> Path:
    """The file that ``path`` stands for, where it may be replaced."""
    kind = special(path)
    if kind is not None:  # renaming a file over /dev/null would replace it for everyone
        raise PlatformError(
            "BNF-P017", f"the target is {kind}, which is never replaced", where=str(path), fix="name a file"
        )
    return Path(os.path.realpath(path))


def _write(target: Path, temporary: Path, data: bytes) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)
        try:
            with suppress(FileNotFoundError):
                # Path.chmod, not os.fchmod: Windows has no fchmod before Python 3.13
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[os.write(descriptor, remaining) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
    except BaseException:  # Ctrl-C too: nothing half-written is left behind
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Forces the rename itself to the disk where folders can be synced; the content is there already."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # a folder that may be written but not read, or Windows: the rename is still atomic
    try:
        # some network file systems refuse to sync a folder
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError, action: str, path: Path, size: int | None) -> BnfoldError:
    """The operating system's refusal as a coded error."""
    load = "" if size is None else f" ({size} bytes)"
    if error.errno in _FULL:
        return PlatformError(
            "BNF-P010",
            f"cannot {action}{load}: the disk or your quota is full",
            where=str(path),
            fix="free some space or choose another folder; nothing was written under this name",
        )
    if error.errno == errno.EFBIG:
        return PlatformError(
            "BNF-P011",
            f"cannot {action}{load}: larger than the limit on file sizes",
            where=str(path),
            fix="raise the limit (ulimit -f) or choose another file system",
        )
    if error.errno in _FORBIDDEN:
        return PlatformError(
            "BNF-P012",
            f"cannot {action}{load}: {error.strerror}",
            where=str(path),
            fix="choose a folder that you may write to",
        )
    if error.errno in _NO_PLACE:
        return PlatformError(
            "BNF-P013",
            f"cannot {action}{load}: {error.strerror}",
            where=str(path),
            fix="name a file in an existing folder",
        )
    return PlatformError("BNF-P014", f"cannot {action}{load}: {error.strerror or error}", where=str(path))
