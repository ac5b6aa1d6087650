"""A file holds the old content or the new, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from bnfold import atomic
from bnfold.errors import PlatformError

OLD, NEW = b"the old content", b"new" * 100_000


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(OLD)
    return path


def test_it_writes_and_replaces(target: Path) -> None:
    for data in (NEW, b"", OLD):
        atomic.write(target, data)
        assert target.read_bytes() == data
    atomic.write(str(target.with_name("new")), NEW)
    assert target.with_name("new").read_bytes() == NEW
    assert {path.name for path in target.parent.iterdir()} == {"model.onnx", "new"}


@pytest.mark.parametrize("step", ["write", "fsync", "close", "replace"])
@pytest.mark.parametrize("exception", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()], ids=repr)
def test_stopped_at_any_step(
    target: Path, monkeypatch: pytest.MonkeyPatch, step: str, exception: BaseException
) -> None:
    """The old content is there, and nothing else is left in the folder."""

    def fail(*arguments: object) -> None:
        if step == "close":
            real_close(arguments[0])  # type: ignore[arg-type]
        raise exception

    real_close = os.close
    monkeypatch.setattr(Path if step == "replace" else os, step, fail)
    with pytest.raises((PlatformError, KeyboardInterrupt)) as caught:
        atomic.write(target, NEW)
    monkeypatch.undo()
    assert isinstance(caught.value, KeyboardInterrupt) is isinstance(exception, KeyboardInterrupt)
    assert target.read_bytes() == OLD
    assert list(target.parent.iterdir()) == [target]


def test_the_content_is_on_the_disk_before_the_name_points_to_it(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(path: Path, to: Path) -> Path:
        assert path.parent == to.parent
        assert path.name.startswith(".")
        assert path.suffix == ".tmp"
        assert path.read_bytes() == NEW
        steps.append("rename")
        return replace(path, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    atomic.write(target, NEW)
    assert steps == ["file", "rename", "folder"]


def test_what_the_system_takes_in_pieces_is_written_whole(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:7777])))
    atomic.write(target, NEW)
    assert target.read_bytes() == NEW


def test_permissions_stay_and_new_ones_follow_the_umask(target: Path) -> None:
    target.chmod(0o640)
    atomic.write(target, NEW)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    old = os.umask(0o027)
    try:
        atomic.write(target.with_name("new"), NEW)
    finally:
        os.umask(old)
    assert stat.S_IMODE(target.with_name("new").stat().st_mode) == 0o640


def test_a_link_is_followed(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(target.name)
    atomic.write(link, NEW)
    assert link.is_symlink()
    assert target.read_bytes() == NEW


def test_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    atomic.write(path, NEW)
    assert path.read_bytes() == NEW


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "P010"),
        (errno.EDQUOT, "P010"),
        (errno.EFBIG, "P011"),
        (errno.EACCES, "P012"),
        (errno.EPERM, "P012"),
        (errno.EROFS, "P012"),
        (errno.ENOENT, "P013"),
        (errno.ELOOP, "P013"),
        (errno.EIO, "P014"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else value,
)
def test_the_systems_refusals(target: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(PlatformError) as caught:
        atomic.write(target, NEW)
    assert caught.value.code == f"BNF-{code}"
    assert caught.value.where == str(target)
    assert "300000 bytes" in caught.value.what


def test_places_that_are_none(target: Path) -> None:
    for path in (target.parent, target / "inside", target.parent / "missing" / "a.onnx"):
        with pytest.raises(PlatformError) as caught:
            atomic.write(path, NEW)
        assert caught.value.code == "BNF-P013"
        assert caught.value.where == str(path)
    assert target.read_bytes() == OLD


def test_a_place_is_checked_before_there_is_anything_to_write(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(target.parent.iterdir())
    for path in (target, target.parent / "new.onnx"):
        atomic.check(path)
    for path in (target.parent, target / "inside", target.parent / "missing" / "a.onnx"):
        with pytest.raises(PlatformError) as caught:
            atomic.check(path)
        assert (caught.value.code, caught.value.where) == ("BNF-P013", str(path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PlatformError) as caught:
        atomic.check(target)
    assert (caught.value.code, caught.value.where) == ("BNF-P012", str(target))
    with pytest.raises(PlatformError) as caught:
        atomic.check(os.devnull)
    assert caught.value.code == "BNF-P017"
    assert sorted(target.parent.iterdir()) == before


def test_ensure_folder(target: Path) -> None:
    deep = target.parent / "a" / "b"
    for _ in range(2):
        atomic.ensure_folder(deep)
        assert deep.is_dir()
    for path in (target, target / "inside"):
        with pytest.raises(PlatformError) as caught:
            atomic.ensure_folder(path)
        assert caught.value.code == "BNF-P013"
        assert caught.value.where == str(path)
