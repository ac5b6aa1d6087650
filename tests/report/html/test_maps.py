from __future__ import annotations

import numpy as np

from bnfold.report.html.maps import draw_map, stretched

from .test_plots import texts


def test_few_channels_are_as_wide_as_they_come_to() -> None:
    assert stretched(np.array([1.0, 2.0, 3.0]), 7).tolist() == [1, 1, 1, 2, 2, 3, 3]


def test_of_many_channels_the_furthest_is_kept() -> None:
    values = np.zeros(1000)
    values[[3, 501]] = 9, -9
    shown = stretched(values, 10)
    assert shown.tolist() == [9, 0, 0, 0, 0, -9, 0, 0, 0, 0]
    values[502] = np.nan
    assert np.isnan(stretched(values, 10)[5])


def test_nothing_at_all() -> None:
    assert np.isnan(stretched(np.zeros(0), 4)).all()


def drawn(row: list[float], dead: list[bool]) -> str:
    return draw_map(
        ["bn1", "bn2"], [np.array(row), np.zeros(2)], unit="log10", colours="viridis", limits=(-1, 1),
        alt="a map", missing="not a number", marked=("dead", [np.array(dead), np.zeros(2, dtype=bool)]),
    )  # fmt: skip


def test_what_is_missing_and_what_is_marked_have_a_legend() -> None:
    assert {"not a number", "dead", "log10"} <= set(texts(drawn([np.nan, 1.0], [False, True])))
    assert not {"not a number", "dead"} & set(texts(drawn([0.0, 1.0], [False, False])))
    # a dead channel has no value, and is not called missing for it
    assert "not a number" not in texts(drawn([np.nan, 1.0], [True, False]))
    assert drawn([0.0, 1.0], [False, False]) != drawn([0.0, 0.9], [False, False])
