"""Nothing that a converter prints reaches the terminal, and everything is put back afterwards."""

from __future__ import annotations

import ctypes
import logging
import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.export import onnx, tflite
from bnfold.export.quiet import quiet, same_randomness, terminal
from tests.export.bodies import body_of, draw

BODY = body_of(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), draw(1, 3))


def shout() -> None:
    """By every way there is."""
    print("python out")
    print("python err", file=sys.stderr)
    os.write(1, b"descriptor 1\n")
    os.write(2, b"descriptor 2\n")
    ctypes.CDLL(None).puts(b"C out")  # stays in C's buffer for a while
    logging.getLogger("some.converter").error("logged")
    warnings.warn("a warning", stacklevel=1)


EVERYTHING = ["python out", "python err", "descriptor 1", "descriptor 2", "C out", "logged", "a warning"]


@pytest.mark.parametrize("target", [onnx, tflite])
def test_an_export_prints_nothing_and_keeps_what_was_said(target: Any, capfd: Any) -> None:
    exported = target.export(*BODY.arguments)
    assert capfd.readouterr() == ("", "")
    assert "[" in exported.log or target is onnx


def test_all_ways_of_printing(capfd: Any) -> None:
    handler = logging.StreamHandler()
    logging.getLogger("some.converter").addHandler(handler)
    try:
        with quiet() as printed:
            shout()
    finally:
        logging.getLogger("some.converter").removeHandler(handler)
    assert capfd.readouterr() == ("", "")
    for text in EVERYTHING:
        assert text in printed.text


def state() -> tuple[Any, ...]:
    """What a converter could leave behind; the last entry is the number of open descriptors."""
    handlers = list(logging.root.handlers), logging.root.level
    return sys.stdout, sys.stderr, list(warnings.filters), handlers, len(list(Path("/dev/fd").iterdir()))


class Interrupted:
    """Stands for a converter that is interrupted, or that fails, while it talks."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: Any, **__: Any) -> None:
        shout()
        raise self.error


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_ctrl_c_passes_and_everything_is_put_back(
    target: str, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import litert_torch

    interrupted = Interrupted(KeyboardInterrupt())
    monkeypatch.setattr(torch.onnx, "export", interrupted)
    monkeypatch.setattr(litert_torch, "convert", interrupted)
    before = state()
    with pytest.raises(KeyboardInterrupt):
        {"onnx": onnx, "tflite": tflite}[target].export(*BODY.arguments)
    assert state() == before
    os.write(1, b"one\n")
    os.write(2, b"two\n")
    print("three")
    assert capfd.readouterr() == ("one\nthree\n", "two\n")


def test_a_failure_takes_the_last_lines_along(capfd: Any) -> None:
    with pytest.raises(ValueError, match="why") as failure, quiet():
        Interrupted(ValueError("why"))()
    assert capfd.readouterr() == ("", "")
    (note,) = failure.value.__notes__
    assert "descriptor 2" in note


def test_blocks_nest_and_one_s_own_progress_reaches_the_terminal(capfd: Any) -> None:
    with quiet() as outer:
        print("outer")
        with quiet() as inner:
            print("inner")
            inner.terminal.write("of the outer block\n")
        terminal().write("progress\n")
        print("outer again")
    assert inner.text == "inner\n"
    assert outer.text == "outer\nof the outer block\nouter again\n"
    assert capfd.readouterr() == ("", "progress\n")


def test_a_stream_that_a_library_kept_works_afterwards(capsys: Any) -> None:
    with quiet():
        kept = sys.stdout
    kept.write("later\n")
    assert capsys.readouterr().out == "later\n"


def test_warnings_that_are_errors_are_written_down_inside_and_raised_outside() -> None:
    with quiet() as printed:
        warnings.warn("only written down", stacklevel=1)
    assert "only written down" in printed.text
    with pytest.raises(UserWarning, match="raised"):
        warnings.warn("raised", stacklevel=1)


def test_random_generators_are_put_back() -> None:
    def draws() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    def seed() -> None:
        for generator in (random.seed, np.random.seed, torch.manual_seed):
            generator(1)

    seed()
    expected = draws()
    seed()
    with same_randomness():
        assert draws() == expected
    assert draws() == expected
