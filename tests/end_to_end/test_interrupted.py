"""Ctrl-C, a kill and a full disk: under its final name a file is the old one or the new one, never a half."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from bnfold import manifest
from tests.verify.networks import Small, built

SCRIPT = Path(__file__).with_name("interrupted.py")
OLD = b"the artifact of last week"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(built(Small).state_dict(), tmp_path / "net.safetensors")
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stopped(folder: Path, mode: str, sent: signal.Signals) -> tuple[int, str]:
    """Exit status and standard error of a conversion that got the signal at that place."""
    with start(folder, mode) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            assert any(line.strip() == "here" for line in lines), process.stderr
            process.send_signal(sent)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
        return process.returncode, errors


def left(folder: Path) -> dict[str, bytes]:
    out = folder / "out"
    return {entry.name: entry.read_bytes() for entry in out.iterdir()} if out.exists() else {}


def put_old(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "net.onnx").write_bytes(OLD)


@pytest.mark.parametrize(("mode", "old"), [("half", True), ("unrenamed", False), ("export", False)])
def test_ctrl_c_leaves_what_was_there(folder: Path, mode: str, old: bool) -> None:
    if old:
        put_old(folder)
    status, errors = stopped(folder, mode, signal.SIGINT)
    assert status == 130
    assert "BNF-U130" in errors
    assert "Traceback" not in errors
    assert left(folder) == ({"net.onnx": OLD} if old else {})


@pytest.mark.parametrize("mode", ["half", "unrenamed"])
def test_a_kill_leaves_nothing_under_the_final_name(folder: Path, mode: str) -> None:
    put_old(folder)
    status, _ = stopped(folder, mode, signal.SIGKILL)
    assert status == -signal.SIGKILL
    files = left(folder)
    assert files.pop("net.onnx") == OLD
    # nobody could tidy up after a kill; what is left cannot be taken for an artifact
    assert all(name.startswith(".") and name.endswith(".tmp") for name in files)
    if mode == "half":  # and it is not in the way of the next run
        with start(folder, "none") as process:
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert manifest.read(folder / "out" / "net.onnx")["name"] == "net"


@pytest.mark.parametrize(("mode", "size"), [("limit", 2000), ("limit-all", 4000)])
def test_a_limit_on_file_sizes_is_a_coded_error(folder: Path, mode: str, size: int) -> None:
    put_old(folder)
    with start(folder, mode, str(size)) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert "error[BNF-P" in errors
    assert "Traceback" not in errors
    assert left(folder) == {"net.onnx": OLD}
