"""A TFLite file that takes channels last: asked with frames like any other, with arrays in its own order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bnfold.errors import InputError

from .conftest import FORMATS, Case

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif("tflite" not in FORMATS, reason="no interpreter of TFLite files is installed"),
]


def test_frames_get_the_networks_answers(case_of: Callable[[str], Case]) -> None:
    case = case_of("mnist_mobilenet_nhwc.tflite")
    for index, frame in enumerate(case.frames):
        case.check(case.model.predict(frame), index)
    assert all(check.passed for check in case.model.self_test())


def test_arrays_are_in_the_order_of_the_file(case_of: Callable[[str], Case]) -> None:
    case = case_of("mnist_mobilenet_nhwc.tflite")
    (spec,) = case.model.inputs
    assert spec.shape == (1, 28, 28, 1)
    assert case.model.manifest["inputs"][0]["layout"] == {"file": "NHWC", "network": "NCHW"}
    ready = (case.frames[0].astype(np.float64) / 255).astype(np.float32)[None, ..., None]
    case.check(case.model.predict_raw(ready), 0)
    with pytest.raises(InputError) as caught:
        case.model.predict_raw(ready.reshape(1, 1, 28, 28))
    assert caught.value.code == "BNF-R010"
