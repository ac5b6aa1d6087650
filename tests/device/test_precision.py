"""Artifacts of a lower precision: asked like any other, and as near as their precision lets them be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bnfold

from .conftest import Array, Case

pytestmark = pytest.mark.device

NEAR = {"fp16": 0.005, "int8": 0.1}  # of the range of the network's own answers


@pytest.fixture(scope="session", params=["fp16", "int8"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def answers(model: bnfold.runtime.Model, case: Case) -> Array:
    return np.concatenate([model.predict(frame)["output"] for frame in case.frames])


def test_the_answers_are_the_networks_as_near_as_the_precision_lets_them(
    folder: Path, target: str, precision: str, case_of: Callable[[str], Case]
) -> None:
    case = case_of(f"mnist_mobilenet.{target}")
    model = bnfold.open(folder / f"mnist_mobilenet_{precision}.{target}")
    assert model.manifest["precision"] == precision
    assert (model.inputs, model.outputs) == (case.model.inputs, case.model.outputs)
    given, exact = answers(model, case), case.answers["output"]
    assert given.dtype == np.float32
    assert np.abs(given - exact).max() <= NEAR[precision] * np.ptp(exact)
    assert np.mean(given.argmax(1) == exact.argmax(1)) >= 0.98
    assert np.abs(given - answers(case.model, case)).max() > 0  # it is another file


def test_the_self_test_passes_here(folder: Path, target: str, precision: str) -> None:
    for check in bnfold.open(folder / f"mnist_mobilenet_{precision}.{target}").self_test():
        assert check.passed, (check.max_abs_error, check.tolerance)


def test_the_same_frame_gives_the_same_answer_every_time(
    folder: Path, target: str, precision: str, case_of: Callable[[str], Case]
) -> None:
    case = case_of(f"mnist_mobilenet.{target}")
    path = folder / f"mnist_mobilenet_{precision}.{target}"
    first = answers(bnfold.open(path), case)
    assert np.array_equal(answers(bnfold.open(path), case), first)


def test_the_file_is_smaller(folder: Path, target: str, precision: str) -> None:
    whole = bnfold.open(folder / f"mnist_mobilenet.{target}").manifest["integrity"]["model_bytes"]
    small = bnfold.open(folder / f"mnist_mobilenet_{precision}.{target}").manifest["integrity"]["model_bytes"]
    assert small < 0.6 * whole
