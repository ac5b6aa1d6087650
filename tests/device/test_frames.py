"""Every way of giving a frame leads to the same answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .conftest import Array, Case

pytestmark = pytest.mark.device


def prepared(frame: Array) -> Array:
    """What the digits' manifest asks for, in numpy alone: pixel / 255, two leading axes."""
    return (frame.astype(np.float64) / 255).astype(np.float32)[np.newaxis, np.newaxis]


@pytest.mark.parametrize("file", ["digit.npy", "digit.pgm"])
def test_a_path(digits: Case, folder: Path, file: str) -> None:
    digits.check(digits.model.predict(folder / file), 0)
    digits.check(digits.model.predict(str(folder / file)), 0)


def test_a_float_array_with_and_without_the_batch_axis(digits: Case) -> None:
    for index in (0, 31, 63):
        array = prepared(digits.frames[index])
        given = [array, array[0], array.astype(np.float64), array[0].tolist(), np.asfortranarray(array)]
        for form in given:
            digits.check(digits.model.predict(form), index)


def test_a_path_of_a_float_array(digits: Case, tmp_path: Path) -> None:
    np.save(tmp_path / "ready.npy", prepared(digits.frames[9]))
    digits.check(digits.model.predict(tmp_path / "ready.npy"), 9)


def test_a_dictionary_for_one_input(digits: Case) -> None:
    digits.check(digits.model.predict({"image": digits.frames[2]}), 2)


def test_colour_and_alpha(digits: Case) -> None:
    frame = digits.frames[12]
    grey = [frame[..., np.newaxis], np.stack([frame] * 3, axis=-1)]
    grey.append(np.concatenate([grey[1], 255 - frame[..., np.newaxis]], axis=-1))
    for given in grey:  # (H, W, 1), RGB, RGBA: alpha is dropped
        digits.check(digits.model.predict(given), 12)


def test_colour_becomes_grey_by_luma(digits: Case) -> None:
    frame = np.zeros((28, 28, 3), dtype=np.uint8)
    frame[4:20, 6:22] = (10, 200, 90)
    frame[8:14, 10:24] = (250, 30, 60)
    luma = (frame.astype(np.int64) @ (19595, 38470, 7471) + 32768) >> 16
    got = digits.model.predict(frame)["output"]
    assert np.array_equal(got, digits.model.predict_raw(prepared(luma))["output"])
    assert not np.allclose(got, digits.model.predict(frame[..., ::-1].copy())["output"])


def test_a_frame_of_another_size_is_resized(digits: Case) -> None:
    """A frame of 2x2 blocks shrinks to their weighted means; a digit stays what it is."""
    for index in range(12):
        large = digits.frames[index].repeat(3, axis=0).repeat(3, axis=1)
        outputs = digits.model.predict(large)
        assert digits.model.top(outputs, 1)[0].index == digits.best[index]  # type: ignore[index]
        assert not np.array_equal(outputs["output"], digits.model.predict(digits.frames[index])["output"])
    flat = np.full((480, 640, 3), 77, dtype=np.uint8)
    expected = digits.model.predict_raw(prepared(np.full((28, 28), 77)))["output"]
    assert np.array_equal(digits.model.predict(flat)["output"], expected)


def test_several_inputs_as_paths(sensor: Case, tmp_path: Path) -> None:
    frame = sensor.frames[17]
    np.save(tmp_path / "series.npy", frame["series"])
    mixed = {"series": tmp_path / "series.npy", "ambient": frame["ambient"].astype(np.float64)}
    sensor.check(sensor.model.predict(mixed), 17)


def test_the_best_scores_in_order(digits: Case) -> None:
    outputs = digits.model.predict(digits.frames[0])
    values = outputs["output"][0]
    scores = digits.model.top(outputs, 3)
    order = sorted(range(10), key=lambda index: -values[index])[:3]
    assert [score.index for score in scores] == order
    assert [score.score for score in scores] == [float(values[index]) for index in order]
    assert digits.model.top(outputs["output"], 99) == digits.model.top(outputs, 10)
