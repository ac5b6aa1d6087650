"""Ctrl-C, remembered: libraries that are loading may turn its exception into another one, or drop it."""

from __future__ import annotations

import signal

SEEN: list[int] = []
"""Every Ctrl-C since `watch`."""


def watch() -> None:
    """Remember Ctrl-C from now on. It raises KeyboardInterrupt as before."""

    def note(number: int, frame: object) -> None:
        SEEN.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us ignores it
        signal.signal(signal.SIGINT, note)


def ignore() -> None:
    """Let Ctrl-C do nothing from now on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
