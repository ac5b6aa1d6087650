"""What a model does not take is refused by a code and in words, and the next frame is answered as ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bnfold
from bnfold.errors import BnfoldError, InputError

from .conftest import Array, Case

pytestmark = pytest.mark.device


def refusal(call: Callable[[], object]) -> InputError:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value


def zeros(*shape: int, dtype: Any = np.float32) -> Array:
    return np.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (zeros(1, 1, 28, 27), "R010", "shape (1, 1, 28, 27)"),
        (zeros(28, 28), "R010", "image: float32 (1, 1, 28, 28)"),
        (zeros(1, 28, 28, 1), "R010", "shape (1, 28, 28, 1)"),
        (zeros(2, 1, 28, 28), "R013", "2 frames were given"),
        (zeros(3, 28, 28, 1, dtype=np.uint8), "R013", "3 frames were given"),
        (zeros(1, 1, 28, 28, dtype=np.int64), "R011", "int64"),
        (zeros(1, 1, 28, 28, dtype=bool), "R011", "bool"),
        (zeros(1, 1, 28, 28, dtype=np.complex64), "R011", "complex64"),
        (np.full((1, 1, 28, 28), 1e300), "R011", "values up to 1e+300 do not fit in float32"),
        ([[1.0, 2.0], [3.0]], "R011", "no array"),
        (None, "R011", "object"),
        (zeros(2, 28, 28, dtype=np.uint8), "R015", "(2, 28, 28)"),
        (zeros(0, 28, dtype=np.uint8), "R015", "(0, 28"),
        ({"picture": zeros(1, 1, 28, 28)}, "R012", "missing: image; unknown: picture"),
        ({}, "R012", "missing: image"),
        ("nothing.pgm", "R001", "no frame here"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("R0") else "",
)
def test_predict(digits: Case, given: Any, code: str, says: str) -> None:
    error = refusal(lambda: digits.model.predict(given))
    assert error.code == f"BNF-{code}"
    assert says in error.what
    digits.check(digits.model.predict(digits.frames[1]), 1)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (zeros(1, 28, 28), "R010"),
        (zeros(4, 1, 28, 28), "R013"),
        (zeros(1, 1, 28, 28, dtype=np.float64), "R011"),
        (zeros(28, 28, dtype=np.uint8), "R011"),
        ({"image": zeros(1, 1, 28, 28), "mask": zeros(1)}, "R012"),
    ],
)
def test_predict_raw_takes_the_exact_array_only(digits: Case, given: Any, code: str) -> None:
    assert refusal(lambda: digits.model.predict_raw(given)).code == f"BNF-{code}"


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"ambient": None}, "R012", "missing: ambient"),
        ({"pressure": zeros(1)}, "R012", "unknown: pressure"),
        ({"series": zeros(3, 31)}, "R010", "series: float32 (1, 3, 32)"),
        ({"ambient": zeros(5, 2)}, "R013", "5 frames were given"),
        ({"series": zeros(3, 32, dtype=np.uint8)}, "R014", "nothing says how it becomes series"),
        ({"ambient": zeros(2, dtype=np.int32)}, "R011", "int32"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("R0") else "",
)
def test_several_inputs(sensor: Case, change: dict[str, Any], code: str, says: str) -> None:
    frame = {name: value for name, value in {**sensor.frames[0], **change}.items() if value is not None}
    error = refusal(lambda: sensor.model.predict(frame))
    assert error.code == f"BNF-{code}"
    assert says in error.what
    sensor.check(sensor.model.predict(sensor.frames[0]), 0)


def test_one_array_for_two_inputs(sensor: Case) -> None:
    for call in (sensor.model.predict, sensor.model.predict_raw):
        error = refusal(lambda call=call: call(sensor.frames[0]["series"]))
        assert error.code == "BNF-R012"
        assert "series, ambient" in error.what


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_gets_no_answer(digits: Case, bad: float) -> None:
    """Networks swallow NaN, in max pooling for one: the answer would look like any other."""
    array = zeros(1, 1, 28, 28)
    array[0, 0, 14, 14] = bad
    for call in (digits.model.predict, digits.model.predict_raw):
        error = refusal(lambda call=call: call(array))
        assert error.code == "BNF-R018"
        assert error.what.startswith("1 of 784 values")
    error = refusal(lambda: digits.model.top(np.full((1, 10), bad), 1))
    assert error.code == "BNF-R016"
    digits.check(digits.model.predict(digits.frames[6]), 6)  # and it does not linger


def test_top_needs_the_scores_of_one_frame(digits: Case, sensor: Case) -> None:
    assert refusal(lambda: digits.model.top(zeros(2, 10), 1)).code == "BNF-R017"
    assert refusal(lambda: digits.model.top(zeros(9), 1)).code == "BNF-R017"
    outputs = sensor.model.predict(sensor.frames[0])
    for output in (None, "logits"):
        with pytest.raises(BnfoldError, match=r"scores, aux\.0, aux\.1") as caught:
            sensor.model.top(outputs, 1, output=output)
        assert caught.value.code == "BNF-U062"


def test_opening(digits: Case) -> None:
    other = "tflite-runtime" if digits.path.suffix == ".onnx" else "onnxruntime"
    for runtime in (other, "torch"):
        with pytest.raises(BnfoldError) as caught:
            bnfold.open(digits.path, runtime=runtime)
        assert caught.value.code == "BNF-U060"
    with pytest.raises(BnfoldError) as caught:
        bnfold.open(digits.path, threads=0)
    assert caught.value.code == "BNF-U061"
