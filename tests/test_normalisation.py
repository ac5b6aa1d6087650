"""What is said of a normalisation, completed and refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfold.errors import UsageError
from bnfold.normalisation import assumed, by_input, describe, for_the_only_image
from bnfold.signature import TensorSpec

GRAY = TensorSpec("image", (1, 1, 28, 28), "float32")
COLOR = TensorSpec("photo", (None, 3, 32, 16), "float32")
LAST = TensorSpec("photo", (1, 32, 16, 3), "float32")
SERIES = TensorSpec("series", (1, 6, 100), "float32")


def whole(**changed: Any) -> dict[str, Any]:
    base = {"layout": "NCHW", "color": "rgb", "resize": "stretch", "scale": 1 / 255}
    return {**base, "mean": [0.0] * 3, "std": [1.0] * 3, **changed}


@pytest.mark.parametrize(
    ("given", "spec", "expected"),
    [
        (None, GRAY, whole(color="gray", mean=[0.0], std=[1.0])),
        (None, COLOR, whole()),
        (None, LAST, whole(layout="NHWC")),
        ({}, COLOR, whole()),
        ({"color": "bgr"}, COLOR, whole(color="bgr")),
        ({"mean": 0.5, "std": (0.1, 0.2, 0.3)}, COLOR, whole(mean=[0.5] * 3, std=[0.1, 0.2, 0.3])),
        ({"mean": np.array([0.5, 0.25, 0.125])}, COLOR, whole(mean=[0.5, 0.25, 0.125])),
        ({"scale": 1, "mean": [128]}, COLOR, whole(scale=1.0, mean=[128.0] * 3)),
        ({"photo": {"resize": "crop"}}, COLOR, whole(resize="crop")),
        ({"photo": None}, COLOR, None),
        (None, SERIES, None),
        (None, TensorSpec("ids", (1, 3, 8, 8), "int64"), None),
        (None, TensorSpec("features", (1, 64, 8, 8), "float32"), None),
        # both layouts would fit: PyTorch's
        (None, TensorSpec("x", (1, 3, 8, 3), "float32"), whole()),
        ({"layout": "NHWC"}, TensorSpec("x", (1, 3, 8, 3), "float32"), whole(layout="NHWC")),
    ],
)
def test_what_is_left_out_is_completed(given: Any, spec: TensorSpec, expected: dict[str, Any] | None) -> None:
    found = by_input(given, [spec])
    assert found == {spec.name: expected}
    if expected is not None:
        assert {type(value) for key in ("mean", "std") for value in found[spec.name][key]} == {float}  # type: ignore[index]


def test_of_several_inputs_only_a_single_image_is_assumed_and_told() -> None:
    found = by_input(None, [SERIES, COLOR])
    assert found == {"series": None, "photo": whole()}
    [told] = assumed(None, found)
    assert (told.code, told.severity, told.where) == ("BNF-V015", "info", "photo")
    assert "rgb, stretch, NCHW, pixel / 255" in told.message
    assert assumed({"mean": 0.5}, found) == []
    two = [COLOR, TensorSpec("other", (1, 3, 8, 8), "float32")]
    assert by_input(None, two) == {"photo": None, "other": None}
    assert assumed(None, by_input(None, two)) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mean": [0.1, 0.2]}, "mean has 2 numbers; the input has 3 channels"),
        ({"std": 0}, "std 0 is not a positive number"),
        ({"std": [1, -1, 1]}, "std -1 is not a positive number"),
        ({"scale": float("nan")}, "scale nan"),
        ({"scale": True}, "scale True"),
        ({"mean": "0.5"}, "mean '0.5'"),
        ({"mean": 123.7}, "mean 123.7 is beyond the pixels"),
        ({"color": "gray"}, "color gray does not fit an input of 3 channels in NCHW"),
        ({"color": "RGB"}, "there is no color 'RGB'"),
        ({"layout": "CHW"}, "there is no layout 'CHW'"),
        ({"layout": "NHWC"}, "there is none"),
        ({"means": 0.5}, "there is no input 'means'"),
        ({"photo": {"means": 0.5}}, "there is no 'means' in a normalisation"),
        ({"photo": 0.5}, "'photo' is no dictionary"),
        ({"series": {"mean": 0.5}}, "series takes no images"),
    ],
)
def test_refusals(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        by_input(given, [SERIES, COLOR])
    assert caught.value.code == "BNF-U012"
    assert told in caught.value.what


def test_keys_are_spelled_as_the_user_writes_them() -> None:
    with pytest.raises(UsageError, match="--mean has 2 numbers"):
        for_the_only_image({"mean": [1, 2]}, [COLOR], "--{}".format)
    with pytest.raises(UsageError, match="--std need one image input of 1 or 3 channels; there are 2"):
        for_the_only_image({"std": 1}, [COLOR, GRAY], "--{}".format)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "rgb, stretch, NCHW, pixel / 255"),
        ({"scale": 1}, "rgb, stretch, NCHW, pixel"),
        ({"scale": 0.5, "std": [2.0] * 3}, "rgb, stretch, NCHW, pixel / 2 / 2"),
        ({"mean": [0.5] * 3}, "rgb, stretch, NCHW, pixel / 255 - 0.5"),
        (
            {"mean": [0.1, 0.2, 0.3], "std": [0.5] * 3},
            "rgb, stretch, NCHW, (pixel / 255 - [0.1, 0.2, 0.3]) / 0.5",
        ),
    ],
)
def test_the_algebra_in_words(changed: dict[str, Any], text: str) -> None:
    assert describe(whole(**changed)) == text
