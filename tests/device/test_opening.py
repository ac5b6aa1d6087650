"""A file that others write to while it is open: the old answers, or an error, never new ones unannounced."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import bnfold
from bnfold import manifest
from bnfold.errors import ArtifactError, PlatformError
from bnfold.runtime import Model, opening

from .conftest import Case

pytestmark = pytest.mark.device


def settled(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, small: int = 0) -> Path:
    """A copy of the artifact that counts as left alone, and as large where it is TFLite."""
    monkeypatch.setattr(opening, "SETTLED_NS", 50_000_000)
    monkeypatch.setattr(opening, "SMALL_TFLITE", small)
    path = folder / case.path.name
    shutil.copyfile(case.path, path)
    time.sleep(0.1)
    return path


def altered(path: Path) -> bytes:
    """The file with every byte in the middle of the model changed."""
    data = bytearray(path.read_bytes())
    middle = len(manifest.strip(bytes(data))) // 2
    data[middle - 500 : middle + 500] = bytes(value ^ 0x15 for value in data[middle - 500 : middle + 500])
    return bytes(data)


def check(case: Case, model: Model) -> None:
    case.check(model.predict(case.frames[0]), 0)


def test_opened_by_its_path_it_answers_the_same(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settled(case, tmp_path, monkeypatch)
    by_path, by_bytes = bnfold.open(path), bnfold.open(path, in_memory=True)
    for frame in case.frames[:4]:
        expected = by_bytes.predict(frame)
        assert all(np.array_equal(value, expected[name]) for name, value in by_path.predict(frame).items())
    assert all(check.passed for check in by_path.self_test())


def test_written_over_in_use(sensor: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settled(sensor, tmp_path, monkeypatch)
    by_path, by_bytes = bnfold.open(path), bnfold.open(path, in_memory=True)
    check(sensor, by_path)
    whole = path.read_bytes()
    with path.open("r+b") as file:  # of the same length: a shorter one would end the process
        file.write(altered(path))
    check(sensor, by_bytes)
    if path.suffix == ".onnx":  # onnxruntime keeps a copy
        check(sensor, by_path)
        return
    for _ in range(2):
        with pytest.raises(PlatformError) as caught:
            by_path.predict(sensor.frames[0])
        assert caught.value.code == "BNF-P080"
        assert caught.value.where == str(path)
    with path.open("r+b") as file:
        file.write(whole)
    check(sensor, by_path)


def test_a_small_file_is_read_and_may_be_written_over_or_cut_short(
    sensor: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settled(sensor, tmp_path, monkeypatch, small=sensor.path.stat().st_size)
    model = bnfold.open(path)
    other = altered(path)
    for data in (other, other[: len(other) // 2], b""):
        path.write_bytes(data)
        check(sensor, model)


@pytest.mark.parametrize("more", [0, 1])
def test_how_small_a_file_must_be(
    sensor: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    path = settled(sensor, tmp_path, monkeypatch, small=sensor.path.stat().st_size - more)
    held = opening.hold(path)
    assert (held is None) == (path.suffix == ".tflite" and not more)


def test_replaced_in_use(sensor: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settled(sensor, tmp_path, monkeypatch)
    model = bnfold.open(path)
    other = tmp_path / "new"
    other.write_bytes(altered(path))
    other.replace(path)
    check(sensor, model)
    path.unlink()
    check(sensor, model)
    with pytest.raises(ArtifactError):
        bnfold.open(path)


def test_damaged_and_left_alone(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settled(case, tmp_path, monkeypatch)
    path.write_bytes(altered(path))
    time.sleep(0.1)
    with pytest.raises(ArtifactError) as caught:
        bnfold.open(path)
    assert caught.value.code == "BNF-M007"
