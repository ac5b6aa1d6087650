"""Frames from a folder and through a pipe: what comes, in which order, and what is said of the rest."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfold.errors import InputError
from bnfold.runtime import incoming


class Pipe(io.BytesIO):
    """Gives what is asked for and cannot go back."""

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("seek")

    def tell(self) -> int:
        raise io.UnsupportedOperation("tell")


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def through(data: bytes, inputs: tuple[str, ...] = ("x",)) -> list[incoming.Arrival]:
    return list(incoming.from_pipe(Pipe(data), inputs))


def test_arrays_one_after_another() -> None:
    arrays = [np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones((1, 4), dtype=np.float32), np.zeros(0)]
    found = through(b"".join(map(npy, arrays)))
    assert [arrival.name for arrival in found] == ["frame 0", "frame 1", "frame 2"]
    for arrival, array in zip(found, arrays, strict=True):
        assert isinstance(arrival.frame, np.ndarray)
        assert arrival.frame.dtype == array.dtype
        assert np.array_equal(arrival.frame, array)
    fortran = np.asfortranarray(np.arange(6).reshape(2, 3))
    assert np.array_equal(through(npy(fortran))[0].frame, fortran)  # type: ignore[arg-type]


def test_images_one_after_another() -> None:
    grey, colour = np.arange(12, dtype=np.uint8).reshape(3, 4), np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    data = b"P5\n4 3\n255\n" + grey.tobytes() + b"P6 #4 5\n# a\n4\t2 255 " + colour.tobytes()
    data += b"P5\n10 1\n255\n" + b"0123456789"  # pixels that look like numbers
    first, second, third = through(data)
    assert np.array_equal(first.frame, grey)  # type: ignore[arg-type]
    assert np.array_equal(second.frame, colour)  # type: ignore[arg-type]
    assert bytes(third.frame.tobytes()) == b"0123456789"  # type: ignore[union-attr]


def test_paths_a_line_each(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.full(2, number))
    (tmp_path / "2.npy").write_bytes(b"no frame")
    np.savez(tmp_path / "both.npz", a=np.arange(4), b=np.arange(4) + 10)
    names = ["0.npy", "", "1.npy\r", "2.npy", "3.npy", "both.npz", "no.npz"]
    text = "".join(f"{tmp_path / name if name else name}\n" for name in names)
    found = through(os.fsencode(text), ("a", "b"))
    told = [(Path(arrival.name).name, arrival.error.code if arrival.error else None) for arrival in found]
    assert told == [
        ("0.npy", None), ("1.npy", None), ("2.npy", "BNF-R002"), ("3.npy", "BNF-R001"),
        *((f"both.npz[{i}]", None) for i in range(4)), ("no.npz", "BNF-R001"),
    ]  # fmt: skip
    assert found[4].frame == {"a": 0, "b": 10}


def test_the_ends_of_the_first_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first three bytes tell what comes; they may hold whole lines."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "P5", "P"):
        (tmp_path / name).write_bytes(npy(np.zeros(1)))
    for text, names in (
        ("a\nb\na\n", ["a", "b", "a"]),
        ("\n\na", ["a"]),
        ("\na\n\nb", ["a", "b"]),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("./P5\n", ["./P5"]),
        ("P\na\n", ["P", "a"]),
        ("", []),
    ):
        found = through(text.encode())
        assert [arrival.name for arrival in found] == names
        assert all(arrival.error is None for arrival in found)


@pytest.mark.parametrize(
    ("data", "code", "before"),
    [
        (npy(np.zeros(3))[:-1], "BNF-R032", 0),
        (npy(np.zeros(3)) + npy(np.zeros(3))[:90], "BNF-R032", 1),
        (npy(np.zeros(3)) + b"some text", "BNF-R032", 1),
        (npy(np.array([None])), "BNF-R032", 0),
        (npy(np.array(["text"])), "BNF-R032", 0),
        (b"P5 4 3 255 " + bytes(11), "BNF-R032", 0),
        (b"P5 4 3", "BNF-R032", 0),
        (b"P5 4 3 65535 " + bytes(24), "BNF-R032", 0),
        (b"P6 99999999 99999999 255 ", "BNF-R032", 0),
        (b"P5 " + b"#" * 40000, "BNF-R032", 0),
        (b"P5 4 3 255 " + bytes(12) + b"\n", "BNF-R032", 1),
        (b"\x89PNG\r\n\x1a\n0000", "BNF-R033", 0),
        (b"\xff\xd8\xff\xe0 jpeg", "BNF-R033", 0),
        (b"a\0b\n", "BNF-R033", 0),
        (b"x" * 40000, "BNF-R033", 0),
    ],
)
def test_what_is_no_stream(data: bytes, code: str, before: int) -> None:
    arrivals = incoming.from_pipe(Pipe(data), ("x",))
    for _ in range(before):
        next(arrivals)
    with pytest.raises(InputError) as caught:
        next(arrivals)
    assert caught.value.code == code


def test_several_inputs_need_names() -> None:
    for data in (npy(np.zeros(3)), b"P5\n1 1\n255\n0"):
        with pytest.raises(InputError) as caught:
            through(data, ("a", "b"))
        assert caught.value.code == "BNF-R033"


def test_a_folder_goes_on_after_a_bad_file(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        np.save(tmp_path / f"{name}.npy", np.zeros(2))
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY")
    found = list(incoming.from_path(tmp_path, ("x",)))
    assert [(arrival.name, arrival.error is None) for arrival in found] == [
        ("a.npy", True), ("b.npy", False), ("c.npy", True),
    ]  # fmt: skip
    with pytest.raises(InputError) as caught:
        list(incoming.from_path(tmp_path / "nothing", ("x",)))
    assert caught.value.code == "BNF-R001"
