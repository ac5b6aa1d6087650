"""What a file is, by its first bytes."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save

from bnfold.checkpoint.content import examine
from tests.checkpoint.files import error_of, trained
from tests.damaged import torch_bytes


@pytest.mark.parametrize(
    ("content", "container"),
    [
        (save(trained()), "safetensors"),
        (torch_bytes(trained()), "zip"),
        (torch_bytes(trained(), legacy=True), "legacy"),
        (torch_bytes(trained(), legacy=True, protocol=4), "legacy"),
        (torch_bytes(trained(), legacy=True, protocol=0), "legacy"),
        (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.", "pickle"),
    ],
    ids=["safetensors", "zip", "legacy", "legacy protocol 4", "legacy protocol 0", "pickle"],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a", "a.jpg"])
def test_the_name_does_not_matter(tmp_path: Path, name: str, content: bytes, container: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert examine(tmp_path / name) == container


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


PAGE = b"<!doctype html><title>Not found</title>"
POINTER = b"version https://git-lfs.github.com/spec/v1\r\noid sha256:00\r\nsize 42\r\n"


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (gzip.compress(b"weights", mtime=0), "L008", "a gzip archive"),
        (array(), "L008", "a NumPy array"),
        (b"\x89PNG\r\n\x1a\n", "L008", "a PNG image"),
        (b"\x1c\0\0\0TFL3", "L008", "a TFLite model"),
        (b"\x89HDF\r\n\x1a\n", "L008", "an HDF5 file"),
        (b"epoch 3\nloss 0.12\n", "L008", '"epoch 3\\nloss 0.12"'),
        (b"\xef\xbb\xbf\r\n " + PAGE, "L007", '"Not found"'),
        (PAGE.upper(), "L007", '"NOT FOUND"'),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "L007", "AccessDenied"),
        (POINTER, "L006", "42 bytes"),
        (b"\xef\xbb\xbf" + POINTER, "L006", "42 bytes"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_it_is_instead(tmp_path: Path, name: str, content: bytes, code: str, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = error_of(lambda: examine(tmp_path / name), code)
    assert told in f"{error.what} {error.where}"


def test_bytes_that_are_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"\xf5\x00\x01")
    assert "3 bytes, beginning with f5 00 01" in error_of(lambda: examine(tmp_path / "a.pt"), "L008").where
    # a damaged safetensors file is for its own reader to diagnose
    (tmp_path / "a.safetensors").write_bytes(b"\xf5\x00\x01")
    assert examine(tmp_path / "a.safetensors") == "safetensors"


def test_a_character_cut_at_the_end_of_what_is_looked_at_is_still_text(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("x" * 4095 + "ü", encoding="utf-8")
    error_of(lambda: examine(tmp_path / "a.safetensors"), "L008")


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"<html>\x1b[31mred\x07")
    assert "\x1b" not in str(error_of(lambda: examine(tmp_path / "a.pt"), "L007"))
    assert "\x1b" not in str(error_of(lambda: examine(tmp_path / "\x1b[31m.pt"), "L001"))


@pytest.mark.parametrize("name", ["a\0b", "", "nowhere/a.pt", "file/a.pt"])
def test_paths_that_lead_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    error_of(lambda: examine(tmp_path / name), "L001" if name else "L003")


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "best.pt").symlink_to(tmp_path / "gone.pt")
    error_of(lambda: examine(tmp_path / "best.pt"), "L001")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    assert "pipe" in error_of(lambda: examine(tmp_path / "a.pt"), "L003").what


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").write_bytes(b"x")

    def refuse(*_: object) -> object:  # permissions do not hold for root, who runs many a container
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in error_of(lambda: examine(tmp_path / "a.pt"), "L004").what


def test_a_folder_without_checkpoints_suggests_none(tmp_path: Path) -> None:
    assert error_of(lambda: examine(tmp_path), "L003").fix == "give the checkpoint file"
