"""What stands under a path, asked before it is opened. Standard library only."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnfold.errors import ArtifactError, PlatformError

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a disk device"),
    (stat.S_ISSOCK, "a socket"),
)


def special(path: str | os.PathLike[str]) -> str | None:
    """``a pipe``, ``a device``, ``a socket``; None for a file, for a folder, and where nothing is there."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # whoever opens it says why
        return None
    return next((words for test, words in _KINDS if test(mode)), None)


def refuse_special(path: str | os.PathLike[str]) -> None:
    """Raises where reading might wait for ever, or never end.

    Raises:
        PlatformError: BNF-P016 a pipe, a device or a socket stands there.
    """
    kind = special(path)
    if kind is not None:
        raise PlatformError(
            "BNF-P016",
            f"no file to read, but {kind}",
            where=str(path),
            fix="save its content to a file, and name that",
        )


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Around what reads an artifact: the operating system's errors become coded ones.

    Raises:
        ArtifactError: BNF-M001 no such file, or a folder.
        PlatformError: BNF-P015 the operating system refuses to read it.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ArtifactError(
            "BNF-M001",
            f"no artifact here: {error.strerror}",
            where=str(path),
            fix="name a .onnx or .tflite file written by bnfold convert",
        ) from error
    except OSError as error:
        raise PlatformError("BNF-P015", f"cannot read the file: {error.strerror}", where=str(path)) from error
    except ValueError as error:  # a name with a null byte
        raise ArtifactError("BNF-M001", f"not a file name: {error}", where=repr(str(path))) from error
