"""When a claim holds: against scipy's own test, and how often a true and a false claim are refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind_from_stats

from pipeline.errors import InputError
from pipeline.report.card.criterion import checks
from pipeline.report.card.facts import Score

SIZES = {"test": 100_000, "dev": 10}


def claim(mean: float = 0.7, std: float | None = 0.01, n: int = 20, metric: str = "accuracy") -> Score:
    return Score(split="test", metric=metric, mean=mean, std=std, n=n)


def drawn(mean: float, std: float, n: int, seed: int) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, std, n))


def exactly(mean: float, std: float, n: int = 10) -> list[float]:
    """Values with this mean and this sample standard deviation."""
    values = np.arange(n) - (n - 1) / 2
    return list(mean + std * values / values.std(ddof=1))


@pytest.mark.parametrize("mean", [0.7, 0.712, 0.7135, 0.72, 0.68])
def test_a_mean_holds_where_the_t_test_does_not_refuse_it(mean: float) -> None:
    values = exactly(mean, 0.012)
    # two comparisons, the mean's and the spread's: each at half of a percent
    expected = ttest_ind_from_stats(0.7, 0.01, 20, mean, 0.012, 10).pvalue >= 0.005
    ours, _ = checks([claim()], {("test", "accuracy"): values}, SIZES, "accuracy")
    assert ours.holds == expected
    assert (ours.claimed, ours.measured, ours.n) == (0.7, pytest.approx(mean), 10)


def test_true_claims_are_refused_in_less_than_a_percent_of_cases() -> None:
    refused = 0
    for seed in range(2000):
        old, new = drawn(0.7, 0.01, 8, 2 * seed), drawn(0.7, 0.01, 10, 2 * seed + 1)
        told = claim(float(np.mean(old)), float(np.std(old, ddof=1)), 8)
        refused += not all(each.holds for each in checks([told], {("test", "accuracy"): new}, SIZES, "accuracy"))
    assert 5 <= refused <= 35  # 20 expected


def test_a_mean_that_is_three_deviations_off_is_found() -> None:
    found = sum(
        not checks([claim(0.73)], {("test", "accuracy"): drawn(0.7, 0.01, 10, seed)}, SIZES, "accuracy")[0].holds
        for seed in range(200)
    )
    assert found > 195


@pytest.mark.parametrize(("std", "holds"), [(0.01, True), (0.08, False), (0.001, False)])
def test_a_spread_that_is_made_up_is_found(std: float, holds: bool) -> None:
    """One that is too large would let any mean pass, one that is too small makes the set look better."""
    _, spread = checks([claim(std=std)], {("test", "accuracy"): exactly(0.7, 0.01)}, SIZES, "accuracy")
    assert (spread.of, spread.holds) == ("std", holds)


def test_one_row_may_be_off_where_nothing_varies() -> None:
    """A collapsed student's accuracy is the majority's, but for what a machine rounds otherwise."""
    constant = claim(0.5, 0.0, 100)
    for mean, holds in ((0.5, True), (0.5 + 0.9e-5, True), (0.5 + 3e-5, False)):
        found = checks([constant], {("test", "accuracy"): [mean] * 5}, SIZES, "accuracy")
        assert found[0].holds == holds
    varied = checks([constant], {("test", "accuracy"): exactly(0.5, 0.01)}, SIZES, "accuracy")
    assert [each.holds for each in varied] == [True, False]


def test_a_single_student_was_claimed() -> None:
    single = claim(0.7, None, 1)
    for mean, holds in ((0.71, True), (0.76, False)):
        (found,) = checks([single], {("test", "accuracy"): exactly(mean, 0.01)}, SIZES, "accuracy")
        assert found.holds == holds


def test_one_against_one_has_to_be_the_same() -> None:
    for mean, holds in ((0.7, True), (0.701, False)):
        (found,) = checks([claim(0.7, None, 1)], {("test", "accuracy"): [mean]}, SIZES, "accuracy")
        assert found.holds == holds


def test_more_comparisons_ask_less_of_each() -> None:
    values = {("test", metric): exactly(0.7, 0.01) for metric in ("accuracy", "mcc", "macro_f1")}
    alone, *_ = checks([claim()], values, SIZES, "accuracy")
    among, *_ = checks([claim(), claim(metric="mcc"), claim(metric="macro_f1")], values, SIZES, "accuracy")
    assert among.low < alone.low


def test_not_a_number_never_holds() -> None:
    values = {("test", "accuracy"): exactly(0.7, 0.01)}
    assert not checks([claim(float("nan"))], values, SIZES, "accuracy")[0].holds


def test_a_metric_that_is_not_measured_is_named() -> None:
    with pytest.raises(InputError, match="the card claims test bleu, which this version does not measure"):
        checks([claim(metric="bleu")], {}, SIZES, "accuracy")
