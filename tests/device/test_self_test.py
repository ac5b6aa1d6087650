"""The golden frame in the artifact tells whether the answer here is what it was at conversion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnfold
from bnfold.errors import ArtifactError
from bnfold.runtime import golden

from .conftest import Case

pytestmark = pytest.mark.device

Altered = Callable[[Path, Callable[[dict[str, Any]], object]], Path]


def test_every_artifact_passes(case: Case) -> None:
    checks = case.model.self_test()
    assert [check.output for check in checks] == list(case.answers)
    for check in checks:
        assert check.passed
        assert 0 <= check.max_abs_error <= check.tolerance
        # a tolerance that is wider than the accuracy asked for here would prove nothing
        assert check.tolerance < case.tolerance[check.output]


def test_the_golden_answer_is_the_models_own(case: Case) -> None:
    recorded = case.model.manifest["golden"]
    arrays = {name: golden.decode(entry, where="") for name, entry in recorded["inputs"].items()}
    assert any(np.ptp(array) > 0 for array in arrays.values())  # not an empty frame
    answer = case.model.predict_raw(arrays)
    for name, entry in recorded["outputs"].items():
        assert np.abs(golden.decode(entry, where="") - answer[name]).max() <= entry["tolerance"]


def test_another_answer_fails(case: Case, altered: Altered) -> None:
    output = list(case.answers)[-1]

    def change(document: dict[str, Any]) -> None:
        entry = document["golden"]["outputs"][output]
        values = golden.decode(entry, where="")
        values.flat[0] += np.float32(3 * entry["tolerance"])
        entry.update(golden.encode(values))

    checks = {check.output: check for check in bnfold.open(altered(case.path, change)).self_test()}
    assert [name for name, check in checks.items() if not check.passed] == [output]
    bad = checks[output]
    assert 2 * bad.tolerance < bad.max_abs_error < 4 * bad.tolerance


def test_a_golden_answer_that_is_not_finite_or_of_another_shape_fails(case: Case, altered: Altered) -> None:
    output = next(iter(case.answers))
    for values in (np.full(case.answers[output][:1].shape, np.nan, np.float32), np.zeros(3, np.float32)):

        def change(document: dict[str, Any], values: Any = values) -> None:
            document["golden"]["outputs"][output].update(golden.encode(values))

        check = bnfold.open(altered(case.path, change)).self_test()[0]
        assert check.output == output
        assert not check.passed
        assert check.to_json()["max_abs_error"] is None  # infinite, which JSON has no word for


def test_another_frame_fails(digits: Case, altered: Altered) -> None:
    def change(document: dict[str, Any]) -> None:
        frame = np.zeros((1, 1, 28, 28), dtype=np.float32)
        document["golden"]["inputs"]["image"] = golden.encode(frame)

    assert [check.passed for check in bnfold.open(altered(digits.path, change)).self_test()] == [False]


def test_without_a_golden_frame(digits: Case, altered: Altered) -> None:
    path = altered(digits.path, lambda document: document.update(golden=None))
    model = bnfold.open(path)
    digits.check(model.predict(digits.frames[3]), 3)
    with pytest.raises(ArtifactError) as caught:
        model.self_test()
    assert caught.value.code == "BNF-M009"


def test_a_golden_frame_that_cannot_be_unpacked(digits: Case, altered: Altered) -> None:
    for data in ("not base64!", "AAAA", golden.encode(np.zeros(4, np.float32))["data"]):

        def change(document: dict[str, Any], data: str = data) -> None:
            document["golden"]["inputs"]["image"]["data"] = data

        with pytest.raises(ArtifactError) as caught:
            bnfold.open(altered(digits.path, change)).self_test()
        assert caught.value.code == "BNF-M008"
        assert "golden frame" in caught.value.where
