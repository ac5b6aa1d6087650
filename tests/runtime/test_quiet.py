"""Known chatter of native code is held back, and nothing else."""

from __future__ import annotations

import os
import sys

import pytest

from bnfold.runtime.quiet import quiet_stderr


def test_known_lines_are_held_back_and_others_come_out(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_stderr((b"INFO: hello",)):
        os.write(2, b"INFO: hello\nERROR: the model is broken\n  INFO: hello  \nINFO: hello again\n")
    os.write(2, b"INFO: hello\n")
    assert capfd.readouterr().err == (
        "ERROR: the model is broken\nINFO: hello again\nINFO: hello\n"
    )


def test_what_was_written_comes_out_when_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with quiet_stderr((b"INFO",)):
            os.write(2, b"the reason\nINFO\n")
            raise RuntimeError("invalid model")

    with pytest.raises(RuntimeError, match="invalid model"):
        fail()
    assert capfd.readouterr().err == "the reason\n"


def test_descriptors_are_given_back() -> None:
    def count() -> int:
        lowest = os.dup(2)
        os.close(lowest)
        return lowest

    before = count()
    for _ in range(20):
        with quiet_stderr(()):
            pass
    assert count() == before


@pytest.mark.parametrize("missing", ["dup", "memfd_create"])
def test_where_nothing_can_be_held_back_it_still_runs(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon has no standard error, a device perhaps no place to write; neither leaks a descriptor."""

    def refuse(*_: object) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, missing, refuse, raising=False)
    monkeypatch.setattr(sys, "stderr", None)
    ran = []
    with quiet_stderr((b"INFO",)):
        ran.append(True)
    assert ran == [True]
