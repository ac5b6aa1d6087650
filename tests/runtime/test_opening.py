"""A file that is opened by its path: what was checked is what runs."""

from __future__ import annotations

import gc
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import bnfold
from bnfold import manifest
from bnfold.errors import ArtifactError, PlatformError
from bnfold.runtime import interpreters, opening

from .models import artifact, document, onnx_bytes

TENSOR = ("float32", [1, 2])
ONE = np.ones((1, 2), np.float32)


def written(folder: Path, operator: str = "Add") -> Path:
    folder.mkdir(exist_ok=True)
    nodes = [helper.make_node(operator, ["_x", "_x"], ["_y"])]
    return artifact(folder, nodes, {"_x": TENSOR}, {"_y": TENSOR})


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the interpreters were given; files count as left alone after a twentieth of a second."""
    monkeypatch.setattr(opening, "SETTLED_NS", 50_000_000)
    given: list[Any] = []
    start = interpreters.start

    def noting(source: Any, *args: Any, **options: Any) -> Any:
        given.append(source)
        return start(source, *args, **options)

    monkeypatch.setattr(interpreters, "start", noting)
    return given


def settle() -> None:
    time.sleep(0.1)


def test_by_its_path_once_it_was_left_alone(tmp_path: Path, sources: list[Any]) -> None:
    path = written(tmp_path)
    settle()
    assert bnfold.open(path).predict_raw(ONE)["y"].tolist() == [[2, 2]]
    assert sources == [str(path)]


def test_by_its_bytes_where_it_is_young_or_that_was_asked_for(tmp_path: Path, sources: list[Any]) -> None:
    path = written(tmp_path)
    young = bnfold.open(path)
    settle()
    asked = bnfold.open(path, in_memory=True)
    assert sources == [path.read_bytes()] * 2
    for model in (young, asked):
        assert model.predict_raw(ONE)["y"].tolist() == [[2, 2]]


def test_a_time_in_the_future_counts_as_young(tmp_path: Path, sources: list[Any]) -> None:
    """A device without a clock of its own starts in 1970."""
    path = written(tmp_path)
    settle()
    os.utime(path, (4e9, 4e9))
    settle()
    bnfold.open(path)
    assert isinstance(sources[0], bytes)


@pytest.mark.parametrize("how", ["renamed", "written over", "removed"])
def test_another_file_between_the_check_and_the_interpreter(
    tmp_path: Path, sources: list[Any], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path, other = written(tmp_path / "a"), written(tmp_path / "b", "Mul")
    start = interpreters.start

    def exchanging(source: Any, *args: Any, **options: Any) -> Any:
        if isinstance(source, str):
            {
                "renamed": lambda: other.replace(path),
                "written over": lambda: shutil.copyfile(other, path),
                "removed": path.unlink,
            }[how]()
        return start(source, *args, **options)

    settle()
    monkeypatch.setattr(interpreters, "start", exchanging)
    if how == "removed":
        with pytest.raises(ArtifactError) as caught:
            bnfold.open(path)
        assert caught.value.code == "BNF-M001"
        return
    assert bnfold.open(path).predict_raw(2 * ONE)["y"].tolist() == [[4, 4]]
    assert [type(source) for source in sources] == [str, bytes]
    assert sources[1] == path.read_bytes()


def test_a_path_that_the_interpreter_does_not_take(tmp_path: Path, sources: list[Any]) -> None:
    """onnxruntime reads a format of its own where a name ends in .ort."""
    path = written(tmp_path).rename(tmp_path / "small.ort")
    settle()
    assert bnfold.open(path).predict_raw(ONE)["y"].tolist() == [[2, 2]]
    assert [type(source) for source in sources] == [str, bytes]


def test_what_no_interpreter_takes_says_so(tmp_path: Path, sources: list[Any]) -> None:
    nodes = [helper.make_node("Nonsense", ["_x"], ["_y"])]
    tensors = {"_x": TENSOR}, {"_y": TENSOR}
    path = tmp_path / "small.onnx"
    path.write_bytes(manifest.embed_onnx(onnx_bytes(nodes, *tensors), document(*tensors)))
    settle()
    with pytest.raises(ArtifactError) as caught:
        bnfold.open(path)
    assert caught.value.code == "BNF-M010"
    assert caught.value.where == str(path)


def test_an_empty_file(tmp_path: Path, sources: list[Any]) -> None:
    path = tmp_path / "empty.onnx"
    path.touch()
    settle()
    with pytest.raises(ArtifactError) as caught:
        bnfold.open(path)
    assert caught.value.code == "BNF-M002"


def held_file(folder: Path) -> tuple[Path, opening.Held]:
    """An artifact that has been opened and read."""
    path = written(folder)
    settle()
    held = opening.hold(path)
    assert held is not None
    held.read()
    return path, held


def test_a_held_file_tells_content_from_everything_else(tmp_path: Path, sources: list[Any]) -> None:
    path, held = held_file(tmp_path)
    whole = path.read_bytes()
    for change in (
        lambda: path.touch(),
        lambda: path.chmod(0o600),
        lambda: os.link(path, tmp_path / "linked"),
        lambda: path.write_bytes(whole),
    ):
        settle()
        change()
        held.verify()
    settle()
    shutil.copyfile(path, tmp_path / "linked.new")
    (tmp_path / "linked.new").replace(path)
    held.verify()  # the old file is still there, under no name or another
    assert not held.in_place()
    old = tmp_path / "linked"
    old.write_bytes(written(tmp_path / "b", "Mul").read_bytes())
    for _ in range(2):
        with pytest.raises(PlatformError) as caught:
            held.verify()
        assert caught.value.code == "BNF-P080"
    old.write_bytes(whole[:-7])
    with pytest.raises(PlatformError):
        held.verify()
    old.write_bytes(whole)
    held.verify()


def test_a_file_that_is_cut_short_is_seen_before_anything_reads_from_it(
    tmp_path: Path, sources: list[Any]
) -> None:
    path, held = held_file(tmp_path)
    whole = path.read_bytes()
    held.expect()
    for size in (0, 1, len(whole) - 1):
        os.truncate(path, size)
        with pytest.raises(PlatformError) as caught:
            held.expect()
        assert caught.value.code == "BNF-P080"
    path.write_bytes(whole[:-1] + b"?")
    held.expect()  # nothing to read is missing; what it is, is looked at behind the answer
    with pytest.raises(PlatformError):
        held.verify()
    path.write_bytes(whole)
    held.expect()
    held.verify()


def test_nothing_is_left_open(tmp_path: Path, sources: list[Any]) -> None:
    path = written(tmp_path)
    settle()
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not list open files")
    bnfold.open(path)
    gc.collect()  # what earlier tests left
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        bnfold.open(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
