"""Arrays that travel in JSON come back to the last bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bnfold.errors import ArtifactError
from bnfold.runtime import golden


def arrays() -> list[Any]:
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38, 1 / 3], dtype=np.float32)
    whole = np.arange(24).reshape(2, 3, 4) - 7
    kinds = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float64"]
    odd = [np.float32(2.5), np.zeros((0, 3), np.float32), whole.T.astype(np.float32), whole[:, ::2, ::-1]]
    return [special, np.array([True, False]), *odd, *(np.abs(whole).astype(kind) for kind in kinds)]


@pytest.mark.parametrize("array", arrays(), ids=lambda array: f"{array.dtype}{array.shape}")
def test_there_and_back(array: Any) -> None:
    document = json.loads(json.dumps(golden.encode(np.asarray(array))))
    back = golden.decode(document, where="here")
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == np.ascontiguousarray(array).tobytes()
    back[...] = 0  # the caller's own


def test_a_short_array_is_close_and_takes_about_half() -> None:
    frame = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    cut = golden.short(frame)
    assert cut.dtype == np.float32
    assert cut.shape == frame.shape
    assert np.all(np.abs(cut - frame) < np.abs(frame) / 128)
    assert np.all(np.abs(cut) <= np.abs(frame))
    sizes = [len(golden.encode(array)["data"]) for array in (cut, frame)]
    assert sizes[0] < 0.52 * sizes[1]
    whole = np.arange(-256, 257, dtype=np.float32).reshape(27, 19)
    assert np.array_equal(golden.short(whole.T), whole.T)
    assert golden.short(np.array(np.float32(3.0))).shape == ()
    assert golden.short(np.finfo(np.float32).max.reshape(1)).max() < np.inf
    numbers = np.array([2**40 + 1])
    assert golden.short(numbers) is numbers


def test_big_endian_is_written_little_endian() -> None:
    values = np.array([1.5, -2.0])
    assert golden.encode(values.astype(">f8")) == golden.encode(values.astype("<f8"))


def test_what_is_written_is_documented() -> None:
    """Readable by anyone: base64 of zlib of little-endian elements."""
    import base64
    import zlib

    document = golden.encode(np.array([[1, 258]], dtype=np.uint16))
    assert {key: document[key] for key in ("dtype", "shape")} == {"dtype": "uint16", "shape": [1, 2]}
    assert zlib.decompress(base64.b64decode(document["data"])) == b"\x01\x00\x02\x01"


def test_record() -> None:
    frame, answer = np.zeros((1, 2), np.float32), np.array([[0.25]], np.float32)
    recorded = golden.record({"x": frame}, {"y": answer}, {"y": np.float64(0.5)})
    assert recorded == {
        "inputs": {"x": golden.encode(frame)},
        "outputs": {"y": {**golden.encode(answer), "tolerance": 0.5}},
    }
    assert type(recorded["outputs"]["y"]["tolerance"]) is float


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [3]},
        {"shape": [1]},
        {"dtype": "float64"},
        {"dtype": "int8"},
        {"data": "%%%%"},
        {"data": ""},
        {"data": golden.encode(np.zeros(2, np.float32))["data"][:-6] + "AA=="},
        {"data": golden.encode(np.zeros(10**6, np.float32))["data"]},  # unpacks to far more than announced
    ],
)
def test_damaged(change: dict[str, Any]) -> None:
    document = {**golden.encode(np.array([1, 2], dtype=np.float32)), **change}
    with pytest.raises(ArtifactError) as caught:
        golden.decode(document, where="the golden frame")
    assert caught.value.code == "BNF-M008"
    assert caught.value.where == "the golden frame"
