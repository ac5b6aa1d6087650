"""Keeping known chatter of native libraries off the terminal, and nothing else."""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock  # threading's Lock, without the rest of it
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

_ONE_AT_A_TIME = allocate_lock()


@contextmanager
def quiet_stderr(known: tuple[bytes, ...]) -> Iterator[None]:
    """Holds back what is written to file descriptor 2, then lets through every line that is not ``known``.

    Native code writes there past ``sys.stderr``. Warnings and failures come out late, but they come out.
    Where there is nothing to hold them in (no standard error, no writable folder), nothing is held back.
    """
    with _ONE_AT_A_TIME, ExitStack() as stack:
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            terminal = os.dup(2)
            stack.callback(os.close, terminal)
            held = stack.enter_context(_scratch())
        except OSError:  # a daemon without a standard error, or a device that mounts everything read-only
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            held.seek(0)
            for line in held:
                if line.strip() not in known:
                    os.write(2, line)


def _scratch() -> IO[bytes]:
    """A file without a name: in memory where the system offers it, else on the disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()
