"""One conversion to both formats, shared: the TFLite converter takes seconds to load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bnfold
from bnfold.conversion import ConversionResult
from tests.verify.networks import SHAPE, Small, built, frames


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> ConversionResult:
    """`Small` as small.onnx and small.tflite."""
    return bnfold.convert(
        built(Small),
        (torch.zeros(SHAPE),),
        to=("onnx", "tflite"),
        output=tmp_path_factory.mktemp("artifacts"),
        name="small",
        samples=frames(),
    )


@pytest.fixture(scope="session")
def onnx_path(converted: ConversionResult) -> Path:
    assert converted.passed
    return converted.artifacts[0].path


@pytest.fixture(scope="session")
def tflite_path(converted: ConversionResult) -> Path:
    assert converted.passed
    return converted.artifacts[1].path
