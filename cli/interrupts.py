"""Ctrl-C, remembered: libraries that are loading may turn its exception into another one, or drop it."""

from __future__ import annotations

import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    T = TypeVar("T")

SEEN: list[int] = []
"""Every Ctrl-C since `watch`."""


def watch() -> None:
    """Remember Ctrl-C from now on. It raises KeyboardInterrupt as before."""

    def note(number: int, frame: object) -> None:
        SEEN.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us ignores it
        signal.signal(signal.SIGINT, note)


def resume() -> None:
    """Raise Ctrl-C again where a library has dropped it."""
    if SEEN:
        raise KeyboardInterrupt


class Held:
    """As a context manager: a Ctrl-C waits for the end of the block.

    For native code that ends the process where Python raises in its midst, as torch does while it is loading.
    """

    def __enter__(self) -> None:
        self._before = signal.getsignal(signal.SIGINT)
        self._ours = self._before is not signal.SIG_IGN and (
            threading.current_thread() is threading.main_thread()
        )
        if self._ours:
            signal.signal(signal.SIGINT, lambda number, frame: SEEN.append(number))

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, self._before)
            resume()


def ignore() -> None:
    """Let Ctrl-C do nothing from now on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Stop:
    """Ctrl-C, and the end that a service manager asks for, between two frames and never within one.

    What is remembered of a stream must not be left half updated: so the signal is noted, and only while the
    next frame is waited for does it break off the waiting. As a context manager it is in force in the main
    thread; elsewhere signals do what they did.

    Attributes:
        asked: whether a signal came.
    """

    def __init__(self) -> None:
        self.asked = False
        self._waiting = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # whoever started us ignores it
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def next(self, arrivals: Iterator[T]) -> T | None:
        """The next of them; None where there is none, or a signal came before it did."""
        if self.asked:
            return None
        try:
            self._waiting = True
            return next(arrivals, None)
        except _Asked:
            return None
        finally:
            self._waiting = False

    def _note(self, number: int, frame: object) -> None:
        self.asked = True
        if self._waiting:
            self._waiting = False
            raise _Asked


class _Asked(BaseException):
    """Unwinds the waiting."""
