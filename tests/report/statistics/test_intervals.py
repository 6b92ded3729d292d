"""Means of nested runs: by hand, against scipy, and against data whose components are known."""

import math
import statistics

import numpy as np
import pytest
from scipy.stats import f_oneway, t

from pipeline.report.statistics.intervals import estimate


def test_one_set_by_hand():
    # values 1, 2, 3, 4: sum of squares 5, std sqrt(5/3); t(0.975, 3) = 3.182446
    found = estimate([[1.0, 2.0, 3.0, 4.0]])
    half = 3.182446305 * math.sqrt(5 / 3) / 2
    assert (found.mean, found.n, found.n_init, found.n_seed) == (2.5, 4, 4, 1)
    assert found.std == found.std_init == pytest.approx(math.sqrt(5 / 3))
    assert found.std_seed is None, "one set cannot tell what another would give"
    assert (found.low, found.high) == pytest.approx((2.5 - half, 2.5 + half))
    assert found.source == "initialisations"


def test_one_run_has_no_spread():
    found = estimate([[0.7]])
    assert (found.mean, found.n) == (0.7, 1)
    assert {found.std, found.std_init, found.std_seed, found.low, found.high, found.source} == {None}


def test_sets_of_one_initialisation_cannot_be_told_apart_from_it():
    found = estimate([[0.1], [0.2], [0.6]])
    assert found.std == pytest.approx(statistics.stdev([0.1, 0.2, 0.6]))
    assert (found.std_init, found.std_seed, found.source) == (None, None, "sets")
    half = t.ppf(0.975, 2) * found.std / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half))


def test_components_by_hand():
    # means 2, 6, 10; within: 2/2, 8/2, 2/2 -> mean square (1 + 4 + 1) / 3 = 2 (each set has ddof 1: 2, 8, 2 over 1)
    sets = [[1.0, 3.0], [4.0, 8.0], [9.0, 11.0]]
    within = (2 + 8 + 2) / 3
    between = 2 * (16 + 0 + 16) / 2
    found = estimate(sets)
    assert found.std_init == pytest.approx(math.sqrt(within))
    assert found.std_seed == pytest.approx(math.sqrt((between - within) / 2))
    half = t.ppf(0.975, 2) * 4 / math.sqrt(3)  # set means 2, 6, 10: std 4
    assert (found.mean, found.low, found.high) == pytest.approx((6, 6 - half, 6 + half))
    assert f_oneway(*sets).statistic == pytest.approx(between / within), "the mean squares are scipy's"


def test_unequally_many_runs_by_searles_formula():
    sets = [[1.0, 2.0, 3.0], [6.0], [4.0, 8.0]]
    values = np.concatenate(sets)
    means = [2.0, 6.0, 6.0]
    within = (2 + 8) / 3
    between = sum(len(s) * (m - values.mean()) ** 2 for s, m in zip(sets, means, strict=True)) / 2
    n0 = (6 - (9 + 1 + 4) / 6) / 2
    found = estimate(sets)
    assert found.std_init == pytest.approx(math.sqrt(within))
    assert found.std_seed == pytest.approx(math.sqrt((between - within) / n0))
    assert found.mean == pytest.approx(14 / 3), "of set means, not of runs"
    assert (found.n, found.n_init, found.n_seed) == (6, 3, 3)


def test_a_negative_component_is_zero_and_said():
    found = estimate([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0]])
    assert (found.std_seed, found.negative) == (0.0, True)
    assert not estimate([[1.0, 1.1], [5.0, 5.1]]).negative
    constant = estimate([[0.5, 0.5], [0.5, 0.5]])
    assert (constant.std_init, constant.std_seed, constant.negative) == (0.0, 0.0, False)


@pytest.mark.parametrize(("k", "m", "between"), [(5, 20, 0.02), (3, 5, 0.02), (5, 4, 0.0), (10, 1, 0.01)])
def test_the_interval_covers_the_mean_and_the_components_are_unbiased(k, m, between):
    """Simulated over sets and initialisations; the interval of one set alone would cover less."""
    random, within, covered, alone, seeds, inits = np.random.default_rng(1), 0.03, 0, 0, [], []
    for _ in range(300):
        sets = 0.7 + random.normal(0, between, (k, 1)) + random.normal(0, within, (k, m))
        found = estimate(sets.tolist())
        covered += found.low <= 0.7 <= found.high
        if m > 1:
            single = estimate(sets[:1].tolist())
            alone += single.low <= 0.7 <= single.high
            seeds.append(found.std_seed**2)
            inits.append(found.std_init**2)
    assert 0.92 <= covered / 300 <= 0.98
    if m > 1:
        assert np.mean(inits) == pytest.approx(within**2, rel=0.1)
    if m > 1 and between:
        assert alone / 300 < 0.87, "what initialisations of one set alone would have claimed"
    if m == 20:  # hardly ever negative
        assert np.mean(seeds) == pytest.approx(between**2, rel=0.2)
