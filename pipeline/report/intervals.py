"""Means and differences of means with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean of n runs; ``std`` is the sample standard deviation (ddof 1); what needs two runs is None for one."""

    mean: float
    std: float | None
    n: int
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """A difference of two means with its interval, None where one side has a single run."""

    difference: float
    low: float | None
    high: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, sample standard deviation and Student's t interval of the mean, in the units of ``values`` (n ≥ 1)."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1, None, None)
    std = math.sqrt(_variance(values))
    half = _quantile(n - 1) * std / math.sqrt(n)
    return Estimate(mean, std, n, mean - half, mean + half)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mean of ``first`` minus mean of ``second`` with Welch's interval (unequal variances, Welch 1947)."""
    difference = math.fsum(first) / len(first) - math.fsum(second) / len(second)
    if min(len(first), len(second)) < 2:
        return Difference(difference, None, None)
    squares = [_variance(values) / len(values) for values in (first, second)]
    total = sum(squares)
    if total == 0:
        return Difference(difference, difference, difference)
    freedom = total**2 / sum(s**2 / (len(v) - 1) for s, v in zip(squares, (first, second), strict=True))
    half = _quantile(freedom) * math.sqrt(total)
    return Difference(difference, difference - half, difference + half)


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _quantile(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, freedom))
