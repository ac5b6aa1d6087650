"""The few quantiles that the tests need, without scipy: normal, chi-square's relative F, Student's t, beta.

All come from the regularised incomplete beta function, by Lentz's continued fraction (Press et al., Numerical
Recipes, section 6.4), and are inverted by Newton's method: exact to about 1e-10.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_NORMAL = NormalDist()
_TINY = 1e-300


def normal_quantile(probability: float) -> float:
    """z with P(Z <= z) = probability, 0 < probability < 1."""
    return _NORMAL.inv_cdf(probability)


def beta_probability(x: float, a: float, b: float) -> float:
    """I_x(a, b): P(X <= x) for X ~ Beta(a, b), a and b above 0."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    front = math.exp(log_front)
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > _TINY else _TINY)
    result = d
    for m in range(1, 1000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + numerator * d
            c = 1 + numerator / c
            d = 1 / (d if abs(d) > _TINY else _TINY)
            c = c if abs(c) > _TINY else _TINY
            result *= d * c
        if abs(d * c - 1) < 1e-13:
            break
    return result


def beta_quantile(probability: float, a: float, b: float) -> float:
    """x with I_x(a, b) = probability.

    Newton's steps for log I as a function of log x, which rises and is concave: from the left they never pass
    the root, and from the right the first one does. A handful of steps where bisection takes 50.
    """
    if not 0 < probability < 1:
        return 0.0 if probability <= 0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    target, low, high = math.log(probability), 0.0, 1.0
    x = a / (a + b)
    for _ in range(100):
        reached = beta_probability(x, a, b)
        if reached > probability:
            high = x
        else:
            low = x
        slope = math.exp(log_front + a * math.log(x) + (b - 1) * math.log1p(-x)) if x < 1 else 0.0
        moved = 0.0
        if reached > 0 and slope > 0:
            moved = x * math.exp((target - math.log(reached)) * reached / slope)
        if abs(moved - x) <= 1e-7 * min(x, 1 - x):  # steps shrink quadratically: the next would be 1e-14
            return moved
        x = moved if low < moved < high else (low + high) / 2
        if x in (low, high):
            return x
    return x


@lru_cache(maxsize=4096)
def f_quantile(tail: float, d1: float, d2: float) -> float:
    """x with P(F > x) = tail, for F with d1 and d2 degrees of freedom (real numbers above 0)."""
    # P(F > x) = I_y(d2/2, d1/2) with y = d2 / (d2 + d1 x): the small tail stays a small number
    y = beta_quantile(tail, d2 / 2, d1 / 2)
    return math.inf if y <= 0 else d2 * (1 - y) / (d1 * y)


def f_tail(x: float, d1: float, d2: float) -> float:
    """P(F > x), for F with d1 and d2 degrees of freedom: the reverse of `f_quantile`."""
    return 1.0 if x <= 0 else beta_probability(d2 / (d2 + d1 * x), d2 / 2, d1 / 2)


def t_quantile(tail: float, degrees: float) -> float:
    """x with P(T > x) = tail, for Student's t and a tail of at most 1/2."""
    return math.sqrt(f_quantile(2 * tail, 1.0, degrees))


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval for a probability after ``hits`` in ``trials`` (Clopper and Pearson, 1934)."""
    if not 0 <= hits <= trials or trials < 1:
        raise ValueError(f"{hits} hits in {trials} trials")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else beta_quantile(tail, hits, trials - hits + 1)
    high = 1.0 if hits == trials else beta_quantile(1 - tail, hits + 1, trials - hits)
    return low, high
