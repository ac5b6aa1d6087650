"""Standard output for the result, standard error for everything else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import IO, TextIO


@contextmanager
def stdout_kept_clean() -> Iterator[TextIO]:
    """The real standard output, while whatever anyone else writes to it goes to standard error.

    That holds for the file descriptor too: a model's own code may print, and so may C++ libraries.
    """
    real = sys.stdout
    real.flush()
    try:
        number = real.fileno()
    except (OSError, ValueError):  # no file behind it (a test, a notebook)
        with redirect_stdout(sys.stderr):
            yield real
        return
    saved = os.dup(number)
    try:
        with _fresh_descriptor(2) as elsewhere:
            os.dup2(elsewhere, number)
        clean = os.fdopen(os.dup(saved), "w", encoding=real.encoding, errors="backslashreplace")
        try:
            with redirect_stdout(sys.stderr):
                yield clean
        finally:
            # `write` flushes and reports; what it could not write would fail here a second time
            with suppress(OSError):
                clean.close()
    finally:
        os.dup2(saved, number)
        os.close(saved)


@contextmanager
def _fresh_descriptor(number: int) -> Iterator[int]:
    """A duplicate of a descriptor; of the null device where it is closed."""
    try:
        fresh = os.dup(number)
    except OSError:
        fresh = os.open(os.devnull, os.O_WRONLY)
    try:
        yield fresh
    finally:
        os.close(fresh)


def write(stream: IO[str], text: str) -> None:
    """Write the result. A reader that has gone away (``| head``) is no error.

    Raises:
        OSError: it could not be written (a full disk).
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it exits: let that go nowhere instead of failing.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def progress(verbose: bool) -> Iterator[Callable[[str], None]]:
    """A function to call with the name of each stage as it begins.

    On a terminal the stage and its time stand on one line that disappears; with ``verbose`` each stage is
    a line with its seconds; otherwise nothing is shown.
    """
    if verbose:
        yield from _lines()
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        yield from _live()
    else:
        yield lambda stage: None


def _lines() -> Iterator[Callable[[str], None]]:
    begun: list[tuple[str, float]] = []

    def finish() -> None:
        if begun:
            stage, start = begun.pop()
            print(f"{time.perf_counter() - start:8.2f} s  {stage}", file=sys.stderr, flush=True)

    def show(stage: str) -> None:
        finish()
        begun.append((stage, time.perf_counter()))

    try:
        yield show
    finally:
        finish()


def _live() -> Iterator[Callable[[str], None]]:
    try:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except ModuleNotFoundError:  # rich comes with [convert]; a device has no need of it
        yield lambda stage: print(f"... {stage}", file=sys.stderr, flush=True)
        return
    # A descriptor of its own: the exporters' chatter is caught by replacing descriptor 2 for a while.
    with _fresh_descriptor(2) as own, os.fdopen(own, "w", closefd=False) as terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=Console(file=terminal), transient=True) as display:
            task = display.add_task("starting", total=None)
            yield lambda stage: display.update(task, description=stage)
