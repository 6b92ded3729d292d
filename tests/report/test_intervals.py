import math

import pytest

from pipeline.report.intervals import estimate, welch


def test_sample_std_and_t_interval_by_hand():
    # values 1, 2, 3, 4: sum of squares 5, std sqrt(5/3); t(0.975, 3) = 3.182446
    found = estimate([1.0, 2.0, 3.0, 4.0])
    half = 3.182446305 * math.sqrt(5 / 3) / 2
    assert found.mean == 2.5
    assert found.std == pytest.approx(math.sqrt(5 / 3))
    assert (found.low, found.high) == pytest.approx((2.5 - half, 2.5 + half))


def test_one_run_has_no_spread():
    assert estimate([0.7]) == (0.7, None, 1, None, None)


def test_welch_by_hand():
    # a: mean 3, variance 1, n 3; b: mean 10/4, variance 9, n 4
    a, b = [2.0, 3.0, 4.0], [-1.0, 2.0, 4.0, 5.0]
    variance = sum((x - 2.5) ** 2 for x in b) / 3
    first, second = 1 / 3, variance / 4
    freedom = (first + second) ** 2 / (first**2 / 2 + second**2 / 3)
    from scipy.stats import ttest_ind

    expected = ttest_ind(a, b, equal_var=False)
    found = welch(a, b)
    assert expected.df == pytest.approx(freedom)
    assert found.difference == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_welch_uses_each_sides_own_variance():
    # pooled variances would give t(0.975, 10) = 2.228; here only the first side varies: t(0.975, 1) = 12.7062
    found = welch([0.0, 2.0], [1.0] * 10)
    assert (found.difference, found.high) == pytest.approx((0.0, 12.7062047))


def test_welch_without_a_second_run_has_no_interval():
    assert welch([0.5], [0.1, 0.3]) == (pytest.approx(0.3), None, None)


def test_welch_of_constants_has_width_zero():
    assert welch([0.75, 0.75], [0.25, 0.25]) == (0.5, 0.5, 0.5)
