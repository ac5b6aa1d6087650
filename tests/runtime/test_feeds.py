"""What a caller gives becomes exactly what the interpreter takes, or is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfold.errors import InputError
from bnfold.runtime.feeds import Feeds
from bnfold.signature import TensorSpec

GREY = {"layout": "NCHW", "color": "gray", "resize": "stretch", "scale": 0.5, "mean": [1], "std": [2]}
PIXELS = np.array([[0, 10], [20, 30]], dtype=np.uint8)
READY = np.array([[[[-0.5, 2.0], [4.5, 7.0]]]], dtype=np.float32)  # (pixel * 0.5 - 1) / 2


def feeds(shape: tuple[int | None, ...] = (1, 1, 2, 2), dtype: str = "float32", how: Any = GREY) -> Feeds:
    return Feeds((TensorSpec("x", shape, dtype),), {"x": how})


def two() -> Feeds:
    specs = (TensorSpec("image", (1, 1, 2, 2), "float32"), TensorSpec("speed", (1, 3), "float32"))
    return Feeds(specs, {"image": GREY, "speed": None})


def refusal(call: Any, *arguments: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return caught.value


def test_a_frame_is_prepared_and_a_float_array_is_not() -> None:
    halves = READY.astype(np.float16)  # exact: the values have few digits
    for given in (PIXELS, READY, READY[0], READY.astype(np.float64), halves, READY.tolist()):
        (array,) = feeds().of_frame(given)
        assert array.dtype == np.float32
        assert np.array_equal(array, READY)


def test_a_float_frame_in_the_range_of_pixels_is_still_used_as_it_is() -> None:
    (array,) = feeds().of_frame(PIXELS.astype(np.float32)[np.newaxis])
    assert array.tolist() == [[[[0, 10], [20, 30]]]]


def test_a_path(tmp_path: Path) -> None:
    (tmp_path / "frame.pgm").write_bytes(b"P5\n2 2\n255\n" + PIXELS.tobytes())
    np.save(tmp_path / "ready.npy", READY)
    for path in (tmp_path / "frame.pgm", tmp_path / "ready.npy", str(tmp_path / "ready.npy")):
        assert np.array_equal(feeds().of_frame(path)[0], READY)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((2, 2, 2, 2), dtype=np.uint8))
    error = refusal(feeds().of_frame, tmp_path / "wide.npy")
    assert error.code == "BNF-R013"
    assert str(tmp_path / "wide.npy") in error.where
    assert "input 'x'" in error.where
    missing = refusal(feeds().of_frame, tmp_path / "nothing.npy")
    assert (missing.code, missing.where) == ("BNF-R001", str(tmp_path / "nothing.npy"))


def test_a_batch_of_any_size_where_the_axis_is_symbolic() -> None:
    symbolic = feeds((None, 1, 2, 2))
    stack = np.stack([PIXELS, PIXELS[::-1], PIXELS.T])[..., np.newaxis]
    (array,) = symbolic.of_frame(stack)
    assert array.shape == (3, 1, 2, 2)
    assert np.array_equal(array[1, 0], READY[0, 0, ::-1])
    assert np.array_equal(array[2, 0], READY[0, 0].T)
    assert np.array_equal(symbolic.of_frame(READY[0])[0], READY)
    assert np.array_equal(symbolic.of_arrays(np.concatenate([READY, READY]))[0][1], READY[0])
    assert refusal(symbolic.of_frame, np.zeros((3, 1, 2, 3), np.float32)).code == "BNF-R010"


def test_a_batch_of_fixed_size() -> None:
    pair = feeds((2, 1, 2, 2))
    (array,) = pair.of_frame(np.stack([PIXELS, PIXELS[::-1]])[..., np.newaxis])
    assert np.array_equal(array, np.concatenate([READY, READY[:, :, ::-1]]))
    for given in (READY, np.stack([PIXELS] * 3)[..., np.newaxis]):
        error = refusal(pair.of_frame, given)
        assert error.code == "BNF-R013"
        assert "2 per call" in error.what
    # one frame does not fill a batch of two, and is not repeated to do so
    assert refusal(pair.of_frame, PIXELS).code == "BNF-R013"
    assert refusal(pair.of_frame, READY[0]).code == "BNF-R010"


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        ("int64", np.array([[1, 2]], np.int32), [[1, 2]]),
        ("int64", [1, 2], [[1, 2]]),
        ("int8", np.array([-128, 127], np.int64), [[-128, 127]]),
        ("uint8", np.array([[7, 255]], np.uint8), [[7, 255]]),
        ("bool", np.array([True, False]), [[True, False]]),
    ],
)
def test_integers_are_cast_where_nothing_is_lost(dtype: str, given: Any, expected: list[Any]) -> None:
    (array,) = feeds((1, 2), dtype, None).of_frame(given)
    assert array.dtype == dtype
    assert array.tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "given", "says"),
    [
        ("int8", np.array([0, 128]), "values from 0 to 128 do not fit in int8"),
        ("uint8", np.array([-1, 5]), "values from -1 to 5 do not fit in uint8"),
        ("int64", np.array([1.0, 2.0]), "float64 is neither"),
        ("float32", np.array([1, 2]), "int64 is neither"),
        ("float32", np.array([True, False]), "bool is neither"),
        ("float16", np.array([0.0, 70000.0], np.float32), "values up to 70000 do not fit in float16"),
        ("float32", np.array(["a", "b"]), "<U1 is neither"),
    ],
)
def test_what_would_lose_something_is_refused(dtype: str, given: Any, says: str) -> None:
    error = refusal(feeds((1, 2), dtype, None).of_frame, given)
    assert error.code == "BNF-R011"
    assert says in error.what
    assert f"x: {dtype} (1, 2)" in error.what
    assert error.where == "input 'x'"


def test_ready_arrays_are_passed_on_untouched_or_refused() -> None:
    assert feeds().of_arrays(READY)[0] is READY
    for given, code in (
        (READY[0], "R010"),
        (READY[:, :, :, :1], "R010"),
        (READY.astype(np.float64), "R011"),
        (PIXELS, "R011"),
        (np.concatenate([READY, READY]), "R013"),
        ([[1.0], [2.0, 3.0]], "R011"),
    ):
        assert refusal(feeds().of_arrays, given).code == f"BNF-{code}"


def test_by_name_in_the_order_of_the_inputs() -> None:
    speed = np.array([[1, 2, 3]], dtype=np.float32)
    for given in ({"speed": speed, "image": READY}, {"image": READY, "speed": speed}):
        image, other = two().of_arrays(given)
        assert image is READY
        assert other is speed
    image, other = two().of_frame({"speed": [1.0, 2.0, 3.0], "image": PIXELS})
    assert np.array_equal(image, READY)
    assert np.array_equal(other, speed)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"image": READY}, "missing: speed"),
        ({"image": READY, "speed": [0.0] * 3, "x": 1, 2: 3}, "unknown: x, 2"),
        ({"Image": READY, "speed": [0.0] * 3}, "missing: image; unknown: Image"),
        (READY, "the model has 2 inputs (image, speed), and one array was given"),
        ("frame.png", "the model has 2 inputs"),
    ],
)
def test_names_that_do_not_fit(given: Any, says: str) -> None:
    for call in (two().of_frame, two().of_arrays):
        error = refusal(call, given)
        assert error.code == "BNF-R012"
        assert ".npz" in error.fix or not error.what.endswith("one array was given")
        assert says in error.what


def test_pixels_for_an_input_that_no_frame_is_prepared_for() -> None:
    error = refusal(two().of_frame, {"image": PIXELS, "speed": np.zeros(3, np.uint8)})
    assert error.code == "BNF-R014"
    assert error.where == "input 'speed'"
