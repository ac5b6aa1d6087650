"""Frames from a folder or a file: which ones, in which order, under which names, with which labels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bnfold.errors import InputError, PlatformError
from bnfold.runtime import frames

STACK = np.arange(24, dtype=np.float32).reshape(4, 2, 3)


def code_of(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(frames.read(path, **options))
    assert str(path) in caught.value.where
    return caught.value.code.removeprefix("BNF-")


def pgm(path: Path, level: int) -> NDArray[np.uint8]:
    pixels = np.full((2, 3), level, dtype=np.uint8)
    path.write_bytes(b"P5\n3 2\n255\n" + pixels.tobytes())
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """b.pgm (20), a.PGM (10), c.npy, and much that is no frame."""
    place = tmp_path / "frames"
    (place / "more").mkdir(parents=True)
    pgm(place / "b.pgm", 20)
    pgm(place / "a.PGM", 10)
    np.save(place / "c.npy", STACK)
    pgm(place / "more" / "d.pgm", 40)
    pgm(place / ".hidden.pgm", 50)
    (place / "notes.txt").write_text("three frames")
    (place / "e.npy").mkdir()
    return place


def test_a_folder_in_sorted_order_again_and_again(folder: Path) -> None:
    source = frames.read(folder)
    assert len(source) == 3
    assert source.labels is None
    for _ in range(2):
        names, values = zip(*source, strict=True)
        assert names == ("a.PGM", "b.pgm", "c.npy")
        assert [int(np.asarray(value).flat[0]) for value in values[:2]] == [10, 20]
        assert np.array_equal(values[2], STACK)  # one file, one frame


def test_labels_of_a_folder(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,label\nc.npy,2\na.PGM,0\nb.pgm,11\n", encoding="utf-8-sig")
    labels = frames.read(str(folder)).labels
    assert labels is not None
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 11, 2]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "first line"),
        ("name,class\n", "first line"),
        ("file,label\na.PGM,0\nb.pgm,1\n", "1 frames have no label, c.npy first"),
        ("file,label\na.PGM,0\nb.pgm,1\nc.npy,2\nd.pgm,3\n", "not there, d.pgm first"),
        ("file,label\na.PGM,0\na.PGM,0\n", "line 3 names a.PGM again"),
        ("file,label\na.PGM,-1\n", "line 2"),
        ("file,label\na.PGM,cat\n", "line 2"),
        ("file,label\na.PGM,1,2\n", "line 2"),
        ('file,label\n"a.PGM,0\n', "cannot be read"),
    ],
)
def test_labels_that_do_not_fit(folder: Path, table: str, says: str) -> None:
    (folder / "labels.csv").write_text(table)
    with pytest.raises(InputError) as caught:
        frames.read(folder)
    assert caught.value.code == "BNF-R021"
    assert says in caught.value.what
    assert "labels.csv" in caught.value.where


def test_a_folder_with_images_that_are_not_read(folder: Path) -> None:
    """Leaving them out silently would answer, or prove, on other frames than were meant."""
    (folder / "z.bmp").write_bytes(b"BM")
    assert code_of(folder) == "R023"


def test_a_folder_without_frames(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    with pytest.raises(InputError) as caught:
        frames.read(tmp_path)
    assert caught.value.code == "BNF-R020"
    assert "1 sub-folders, which are not searched" in caught.value.what


def test_a_damaged_frame_among_good_ones(folder: Path) -> None:
    (folder / "b.pgm").write_bytes(b"P5\n3 2\n255\n")
    source = iter(frames.read(folder))
    assert next(source)[0] == "a.PGM"
    with pytest.raises(InputError) as caught:
        next(source)
    assert caught.value.code == "BNF-R003"
    assert "b.pgm" in caught.value.where


def test_one_image_is_one_frame(tmp_path: Path) -> None:
    pixels = pgm(tmp_path / "frame.pgm", 9)
    ((name, frame),) = frames.read(tmp_path / "frame.pgm")
    assert name == "frame.pgm"
    assert np.array_equal(frame, pixels)


def test_npy_counts_frames_on_its_first_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", STACK)
    source = frames.read(tmp_path / "stack.npy")
    assert len(source) == 4
    assert [name for name, _ in source] == [f"stack.npy[{index}]" for index in range(4)]
    for index, (_, frame) in enumerate(source):
        assert np.array_equal(frame, STACK[index])
        assert type(frame) is np.ndarray  # a copy, not the mapped file
        frame[...] = 0
    assert [float(np.asarray(frame).sum()) for _, frame in source] == STACK.sum(axis=(1, 2)).tolist()


def test_npz_with_one_array_under_any_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", anything=STACK, labels=np.array([3, 1, 4, 1], dtype=np.uint8))
    source = frames.read(tmp_path / "a.npz", inputs=["x"])
    assert source.labels is not None
    assert source.labels.tolist() == [3, 1, 4, 1]
    assert source.labels.dtype == np.int64
    for index, (name, frame) in enumerate(source):
        assert name == f"a.npz[{index}]"
        assert np.array_equal(frame, STACK[index])


def test_npz_with_the_inputs_array_among_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=STACK, y=STACK[:2] + 100)
    assert [np.asarray(frame).tolist() for _, frame in frames.read(tmp_path / "a.npz", inputs=["x"])] == (
        STACK.tolist()
    )


def test_npz_with_several_inputs(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", left=STACK, right=-STACK)
    for inputs in (["right", "left"], None):
        rows = [frame for _, frame in frames.read(tmp_path / "a.npz", inputs=inputs)]
        assert len(rows) == 4
        for index, row in enumerate(rows):
            assert isinstance(row, dict)
            assert set(row) == {"left", "right"}
            assert np.array_equal(row["left"], STACK[index])
            assert np.array_equal(row["right"], -STACK[index])


def test_an_input_that_is_called_labels_is_no_table_of_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=STACK, image=STACK)
    source = frames.read(tmp_path / "a.npz", inputs=["labels", "image"])
    assert source.labels is None
    assert set(next(iter(source))[1]) == {"labels", "image"}
    np.savez(tmp_path / "b.npz", labels=STACK)
    assert frames.read(tmp_path / "b.npz").labels is None
    assert len(frames.read(tmp_path / "b.npz")) == 4


@pytest.mark.parametrize(
    ("arrays", "inputs", "code"),
    [
        ({"x": STACK, "y": STACK}, ["z"], "R022"),
        ({"x": STACK}, ["x", "y"], "R022"),
        ({"x": STACK, "y": STACK, "z": STACK}, ["x", "y"], "R022"),
        ({"x": STACK, "y": STACK[:3]}, ["x", "y"], "R022"),
        ({"x": np.float32(3)}, ["x"], "R020"),
        ({"x": STACK[:0]}, ["x"], "R020"),
        ({"x": np.array(["a", "b"])}, ["x"], "R005"),
        ({"x": STACK, "labels": np.array([0, 1, 2])}, ["x"], "R021"),
        ({"x": STACK, "labels": np.array([0, 1, 2, -1])}, ["x"], "R021"),
        ({"x": STACK, "labels": np.array([0.0, 1.0, 2.0, 3.0])}, ["x"], "R021"),
        ({"x": STACK, "labels": np.zeros((4, 1), dtype=int)}, ["x"], "R021"),
        ({}, ["x"], "R020"),
    ],
)
def test_npz_that_does_not_fit(tmp_path: Path, arrays: dict[str, Any], inputs: list[str], code: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    assert code_of(tmp_path / "a.npz", inputs=inputs) == code


@pytest.mark.parametrize("array", [np.float32(3), STACK[:0]], ids=["number", "empty"])
def test_npy_without_frames(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "a.npy", array)
    assert code_of(tmp_path / "a.npy") == "R020"


def test_npz_that_is_damaged(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).random((8, 8)))
    data = (tmp_path / "a.npz").read_bytes()
    middle = bytearray(data)
    middle[len(data) // 2] ^= 4
    for name, content in (("cut", data[:-30]), ("half", data[: len(data) // 2]), ("flip", bytes(middle))):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        assert code_of(path) == "R003"


def test_npz_without_numpys_files_in_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert code_of(tmp_path / "a.npz") == "R020"


def test_nothing_there(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nothing") == "R001"
    (tmp_path / "empty").write_bytes(b"")
    assert code_of(tmp_path / "empty") == "R002"


def test_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(PlatformError) as caught:
            frames.read(path)
        assert caught.value.code == "BNF-P015"
