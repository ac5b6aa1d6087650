"""On a terminal: colours, progress that leaves nothing behind, and NO_COLOR."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")

PROGRAM = """
import time
from bnfold_cli import rules
from bnfold_cli.command import Outcome
def run(options, context):
    context.progress("the first stage")
    time.sleep(0.2)
    print("a library talks")
    return Outcome(False, {}, lambda style: style.paint("FAILED", "red") + "\\n")
rules.run = run
from bnfold_cli.main import entry
entry()
"""


def on_terminal(folder: Path, program: str = PROGRAM, **environment: str) -> tuple[int, str]:
    """Exit status and everything that a terminal of 100 columns gets."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, "rules"],
        stdin=follower, stdout=follower, stderr=follower, cwd=folder,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
    )  # fmt: skip
    os.close(follower)
    received = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not chunk:
            break
        received += chunk
    os.close(leader)
    return process.wait(60), received.decode()


def test_colours_and_progress(tmp_path: Path) -> None:
    status, text = on_terminal(tmp_path)
    assert status == 1
    assert "the first stage" in text
    assert "a library talks" in text
    assert "\x1b[31mFAILED\x1b[0m" in text


def test_no_color(tmp_path: Path) -> None:
    status, text = on_terminal(tmp_path, NO_COLOR="1")
    assert status == 1
    assert "FAILED" in text
    assert "\x1b[31m" not in text


def test_progress_without_rich_is_a_line_per_stage(tmp_path: Path) -> None:
    block = "import sys\nsys.modules['rich'] = None\nsys.modules['rich.console'] = None\n"
    status, text = on_terminal(tmp_path, block + PROGRAM)
    assert status == 1
    assert "... the first stage\r\n" in text


def test_errors_are_coloured_too(tmp_path: Path) -> None:
    program = "import sys; sys.argv[1:] = ['nonsense']; from bnfold_cli.main import entry; entry()"
    status, text = on_terminal(tmp_path, program)
    assert status == 2
    assert "\x1b[31merror[BNF-U002]\x1b[0m" in text
