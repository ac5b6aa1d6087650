"""Quantiles against scipy's."""

from __future__ import annotations

import pytest
from scipy import stats

from bnfold.drift import distributions as d


@pytest.mark.parametrize("tail", [0.4, 0.05, 1e-3, 1e-7])
@pytest.mark.parametrize("d1", [1.0, 2.5, 20.0])
@pytest.mark.parametrize("d2", [7.0, 63.0, 1000.5])
def test_f(tail: float, d1: float, d2: float) -> None:
    assert d.f_quantile(tail, d1, d2) == pytest.approx(stats.f.isf(tail, d1, d2), rel=1e-8)
    x = stats.f.isf(tail, d1, d2)
    assert d.f_tail(x, d1, d2) == pytest.approx(tail, rel=1e-8)
    assert d.f_tail(-x, d1, d2) == d.f_tail(0.0, d1, d2) == 1.0


@pytest.mark.parametrize("tail", [0.3, 0.025, 1e-8])
@pytest.mark.parametrize("degrees", [3.0, 99.0])
def test_t(tail: float, degrees: float) -> None:
    assert d.t_quantile(tail, degrees) == pytest.approx(stats.t.isf(tail, degrees), rel=1e-8)


@pytest.mark.parametrize(("hits", "trials"), [(0, 200), (3, 200), (200, 200), (7, 9)])
def test_clopper_pearson(hits: int, trials: int) -> None:
    low, high = d.clopper_pearson(hits, trials)
    exact = stats.binomtest(hits, trials).proportion_ci(method="exact")
    assert low == pytest.approx(exact.low, abs=1e-9)
    assert high == pytest.approx(exact.high, abs=1e-9)


def test_clopper_pearson_refuses_what_is_no_count() -> None:
    with pytest.raises(ValueError, match="4 hits in 3"):
        d.clopper_pearson(4, 3)
