"""Pipes, devices and sockets are neither read nor replaced."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from bnfold import atomic, manifest
from bnfold.errors import PlatformError
from bnfold.files import refuse_special, special


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_what_stands_there(tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(pipe)
    for ordinary in (tmp_path, tmp_path / "file", tmp_path / "nothing", "a\0b"):
        assert special(ordinary) is None
        refuse_special(ordinary)
    assert special(pipe) == special(tmp_path / "link") == "a pipe"
    assert special("/dev/null") == "a device"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.close()
    assert special(tmp_path / "s") == "a socket"


@pytest.mark.parametrize("suffix", ["", ".onnx"])
def test_a_pipe_is_no_artifact(pipe: Path, suffix: str) -> None:
    path = pipe.rename(pipe.with_suffix(suffix)) if suffix else pipe
    with pytest.raises(PlatformError, match="a pipe") as caught:
        manifest.read(path)
    assert caught.value.code == "BNF-P016"


def test_a_pipe_or_device_is_never_replaced(tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    for target in (pipe, tmp_path / "link"):
        with pytest.raises(PlatformError) as caught:
            atomic.write(target, b"x")
        assert caught.value.code == "BNF-P017"
    assert special(pipe) == "a pipe"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_remove_leaves_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").touch()
    for name in ("a", "b", "c"):
        atomic.remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(PlatformError) as caught:
        atomic.remove(tmp_path / "a" / ("x" * 300))
    assert caught.value.code == "BNF-P013"
