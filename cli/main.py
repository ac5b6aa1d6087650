"""The entry point.

Next to nothing is imported up here: the rest takes a while, and Ctrl-C in that while is to
end like any other.
"""

from __future__ import annotations

import os
import sys

from . import interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def entry() -> NoReturn:
    """The console script ``bnfold``."""
    interrupts.watch()
    try:
        status = main(sys.argv[1:])
        interrupts.ignore()  # a late one has nothing left to stop
    except KeyboardInterrupt as exception:  # while modules were loading, or a second one during the report
        interrupts.ignore()
        from .invocation import stopped

        status = stopped(sys.argv[1:], exception)
    # A KeyboardInterrupt inside a string of code, as a dataclass runs one, makes CPython end by the signal
    # whatever status is asked for; the next string of code takes that back.
    exec("")
    from contextlib import suppress

    # The result is out. What libraries may still hold in C buffers is no part of it.
    with suppress(OSError):
        os.dup2(2, 1)
    sys.exit(status)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status.

    0 passed; 1 a gate failed; 2 the input or the environment is wrong; 3 a bug in bnfold; 130 interrupted.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    from .invocation import run

    return run(arguments)
