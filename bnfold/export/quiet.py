"""Containing what the exporting libraries print, from Python and from C++.

Converters write progress and debug lines to standard output, to standard error, straight to the file
descriptors from C++, through ``logging`` and through ``warnings``. None of it is for the user of bnfold, but
where a conversion fails the last lines often tell why. So it is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import IO, Any, TextIO

_terminals: list[TextIO] = []


def terminal() -> TextIO:
    """The stream for one's own progress: the real standard error, within :func:`quiet` too."""
    return _terminals[-1] if _terminals else sys.stderr


class Captured:
    """What was printed within :func:`quiet`. Complete once the block has been left.

    Attributes:
        text: all of it.
        terminal: the original standard error.
    """

    def __init__(self, terminal: TextIO) -> None:
        self.text = ""
        self.terminal = terminal

    def tail(self, lines: int = 20) -> str:
        """The last lines that are not empty."""
        return "\n".join([line for line in self.text.splitlines() if line.strip()][-lines:])


class _Sink(io.TextIOBase):
    """A text stream into the capture, and into the original stream once the capture is over.

    Libraries keep references to ``sys.stderr`` (logging handlers do): theirs must not dangle.
    """

    def __init__(self, capture: IO[bytes], original: TextIO) -> None:
        self._capture: IO[bytes] | None = capture
        self._original = original

    def write(self, text: str) -> int:
        if self._capture is None:
            return self._original.write(text)
        self._capture.write(text.encode("utf-8", "replace"))
        return len(text)

    def flush(self) -> None:
        if self._capture is None:
            self._original.flush()

    def fileno(self) -> int:
        return self._original.fileno()

    def isatty(self) -> bool:
        return self._capture is None and self._original.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def release(self) -> None:
        self._capture = None


@contextlib.contextmanager
def quiet() -> Iterator[Captured]:
    """Capture standard output, standard error, logging and warnings, at Python's and at the C level.

    Everything is put back on leaving, on exceptions and KeyboardInterrupt too. An ``Exception`` that passes
    gets the last captured lines as a note (PEP 678), so that nothing that explains a failure is lost. Blocks
    nest. The redirection holds for the whole process, other threads included.

    Yields:
        what was printed; write your own progress to ``.terminal`` (or :func:`terminal`).
    """
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        stderr_copy = _redirect_descriptors(store, stack)
        own = _own_terminal(stderr_copy, stack)
        captured = Captured(own)
        stack.callback(_read_back, store, captured)
        stack.callback(_flush_c)  # before the reading, while the descriptors still point at the store
        _terminals.append(own)
        stack.callback(_terminals.pop)
        _redirect_streams(store, stack)
        _redirect_warnings(stack)
        try:
            yield captured
        except Exception as error:
            _flush_c()
            _read_back(store, captured)
            if captured.text.strip():
                error.add_note("the converter's last lines:\n" + captured.tail())
            raise


def _read_back(store: IO[bytes], captured: Captured) -> None:
    store.seek(0)
    captured.text = store.read().decode("utf-8", "replace")


def _flush_c() -> None:
    """C's stdio buffers belong to whoever holds the descriptor now."""
    with contextlib.suppress(AttributeError, OSError):  # a platform without a reachable C library
        ctypes.CDLL(None).fflush(None)


def _redirect_descriptors(store: IO[bytes], stack: contextlib.ExitStack) -> int | None:
    """Point descriptors 1 and 2 at the store until the stack unwinds; a copy of the old 2."""
    stderr_copy = None
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or a pipe whose reader is gone
            stream.flush()
    _flush_c()
    for descriptor in (1, 2):
        try:
            copy = os.dup(descriptor)
        except OSError:  # closed by the caller: nothing can be printed there
            continue
        stack.callback(os.close, copy)
        stack.callback(os.dup2, copy, descriptor)
        os.dup2(store.fileno(), descriptor)
        if descriptor == 2:
            stderr_copy = copy
    return stderr_copy


def _own_terminal(stderr_copy: int | None, stack: contextlib.ExitStack) -> TextIO:
    """The original standard error, past the redirection."""
    original = sys.stderr
    try:
        is_descriptor = original.fileno() == 2
    except (
        OSError,
        ValueError,
        AttributeError,
    ):  # replaced by something that is no file (a test, a notebook)
        is_descriptor = False
    if not is_descriptor or stderr_copy is None:
        return original
    stream = os.fdopen(os.dup(stderr_copy), "w", encoding=original.encoding, errors="replace", buffering=1)
    stack.callback(stream.close)
    return stream


def _redirect_streams(store: IO[bytes], stack: contextlib.ExitStack) -> None:
    """Swap sys.stdout and sys.stderr, and every logging handler that holds the old ones."""
    sinks: dict[int, _Sink] = {}
    for name in ("stdout", "stderr"):
        original: TextIO = getattr(sys, name)
        sink = _Sink(store, original)
        stack.callback(sink.release)
        stack.callback(setattr, sys, name, original)
        setattr(sys, name, sink)
        sinks[id(original)] = sink
        sinks.setdefault(id(getattr(sys, f"__{name}__")), sink)
    for logger in _loggers():
        # what the libraries do to handlers and levels while they work must not outlast it
        stack.callback(_restore_logger, logger, list(logger.handlers), logger.level, logger.propagate)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in sinks:
                stack.callback(_set_stream, handler, handler.stream)
                handler.stream = sinks[id(handler.stream)]


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


def _restore_logger(
    logger: logging.Logger, handlers: list[logging.Handler], level: int, propagate: bool
) -> None:
    logger.handlers[:] = handlers
    if logger.level != level:  # each setting clears the caches of all loggers, of which there are hundreds
        logger.setLevel(level)
    logger.propagate = propagate


def _set_stream(handler: logging.StreamHandler[Any], stream: Any) -> None:
    handler.stream = stream


def _redirect_warnings(stack: contextlib.ExitStack) -> None:
    """Print warnings into the capture, even where they are set to be errors, and restore the filters."""
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("always")

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    warnings.showwarning = show


@contextlib.contextmanager
def same_randomness() -> Iterator[None]:
    """Leave the random generators of torch, numpy and Python as they were: the converters draw from them."""
    import numpy as np
    import torch

    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)
