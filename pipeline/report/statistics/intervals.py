"""Means of runs that are nested in sets: variance components and 95 % intervals.

Runs of one set differ by their initialisation, sets by their seed. y_ij = μ + a_i + e_ij, a one-way random-effects
model (Searle, Casella and McCulloch, *Variance Components*, 1992, chapter 3): the component between sets is what two
distillations would differ by with infinitely many initialisations each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

LEVEL = 0.95
Source = Literal["sets", "initialisations"]


class Estimate(NamedTuple):
    """A mean of runs, in the units of the values; what the runs cannot tell is None.

    Attributes:
        mean: over sets of the means over their initialisations.
        std: sample standard deviation of all n runs, whatever they differ in.
        std_init: of initialisations within a set, pooled over sets (ddof 1 in each).
        std_seed: between sets, without what initialisations contribute; 0 where the estimate is negative.
        negative: whether it is.
        n, n_init, n_seed: runs, initialisations of a set (the most there are), sets.
        low, high: bounds of the 95 % interval of the mean, by Student's t.
        source: what the interval's variance was taken from: sets (n_seed − 1 degrees of freedom) or initialisations.

    """

    mean: float
    std: float | None
    std_init: float | None
    std_seed: float | None
    negative: bool
    n: int
    n_init: int
    n_seed: int
    low: float | None
    high: float | None
    source: Source | None


def estimate(sets: Sequence[Sequence[float]]) -> Estimate:
    """The mean of nested runs and where its variance comes from.

    Args:
        sets: the values of the initialisations of every set; at least one each.

    """
    values = [value for of_set in sets for value in of_set]
    means = [_mean(of_set) for of_set in sets]
    n, k = len(values), len(sets)
    between = _between(sets, means)
    within = _within(sets)
    units, source = (means, "sets") if k > 1 else (values, "initialisations")
    mean, half = _mean(units), None
    if len(units) > 1:
        half = _quantile(len(units) - 1) * math.sqrt(_variance(units) / len(units))
    return Estimate(
        mean=mean,
        std=math.sqrt(_variance(values)) if n > 1 else None,
        std_init=None if within is None else math.sqrt(within),
        std_seed=None if between is None else math.sqrt(max(0.0, between)),
        negative=between is not None and between < 0,
        n=n,
        n_init=max(map(len, sets)),
        n_seed=k,
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
        source=None if half is None else source,  # type: ignore[arg-type]
    )


def _within(sets: Sequence[Sequence[float]]) -> float | None:
    """Mean square within sets, None where no set has two runs."""
    freedom = sum(len(of_set) - 1 for of_set in sets)
    return sum(_variance(s) * (len(s) - 1) for s in sets if len(s) > 1) / freedom if freedom else None


def _between(sets: Sequence[Sequence[float]], means: Sequence[float]) -> float | None:
    """The component between sets by analysis of variance, also of unequally many runs; may be negative."""
    within, n, k = _within(sets), sum(map(len, sets)), len(sets)
    if k < 2 or within is None:
        return None
    grand = _mean([value for of_set in sets for value in of_set])
    square = math.fsum(len(s) * (m - grand) ** 2 for s, m in zip(sets, means, strict=True)) / (k - 1)
    return (square - within) / ((n - sum(len(s) ** 2 for s in sets) / n) / (k - 1))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _quantile(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, freedom))
