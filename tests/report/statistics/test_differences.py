"""Differences between cells: against scikit-learn, scipy and formulas, and on simulated data with known components."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, permutation_test, t, ttest_1samp, ttest_ind
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, matthews_corrcoef

from pipeline.evaluation.metrics import decisions
from pipeline.report.statistics.differences import Rows, _generator, difference, holm, metric
from tests.report.report_fabric import METRICS


def one_hot(classes, count):
    return (np.asarray(classes) == np.arange(count)[:, None]).astype(float)


def answers(random, right, labels, classes=2):
    """Predictions of which ``right`` [..., rows] are right."""
    wrong = (labels + random.integers(1, classes, right.shape)) % classes
    return np.where(right, labels, wrong).astype(np.uint8)


# --- metrics -------------------------------------------------------------------------------------------------------


def of_two_classes(name, guessed, labels):
    """One metric, by scikit-learn."""
    if name == "accuracy_f1":
        return (accuracy_score(labels, guessed) + f1_score(labels, guessed, zero_division=0)) / 2
    of = {"accuracy": accuracy_score, "balanced_accuracy": balanced_accuracy_score, "mcc": matthews_corrcoef}
    if name in of:
        return of[name](labels, guessed)
    return f1_score(labels, guessed, average="macro" if name == "macro_f1" else "binary", zero_division=0)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("case", ["random", "one class answered", "one class absent", "all right"])
def test_metrics_from_counts_are_scikit_learns(classes, case):
    random = np.random.default_rng(3)
    labels, guessed = random.integers(0, classes, (2, 50))
    if case == "one class answered":
        guessed[:] = 0
    if case == "one class absent":
        labels[labels == classes - 1] = 0
        guessed[guessed == classes - 1] = 0
    if case == "all right":
        guessed = labels
    hits, given, true = (
        one_hot(labels, classes) * one_hot(guessed, classes),
        one_hot(guessed, classes),
        one_hot(labels, classes),
    )
    wanted = decisions(torch.tensor(guessed), torch.tensor(labels), classes)
    for name in set(METRICS) & set(wanted):
        found = metric(name, hits.sum(-1), given.sum(-1), true.sum(-1))
        assert found == pytest.approx(wanted[name], abs=1e-12), name


@pytest.mark.parametrize("name", METRICS)
def test_every_draw_is_the_metric_of_the_rows_drawn(name):
    """One run: a draw's value is scikit-learn's on the rows of that draw."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 40)
    guessed = answers(random, random.random((1, 40)) < 0.7, labels)
    rows = Rows(labels, 2, name, "test", draws=30)
    cell = rows.resample([guessed], "a")
    for draw in range(30):
        chosen = np.repeat(np.arange(40), rows._counts[draw])
        assert len(chosen) == 40
        wanted = of_two_classes(name, guessed[0][chosen], labels[chosen])
        assert cell.draws[draw] == pytest.approx(wanted, abs=1e-12)
    assert cell.value == pytest.approx(of_two_classes(name, guessed[0], labels), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_pseudo_values_are_the_jackknifes(name):
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 25)
    guessed = answers(random, random.random((3, 25)) < 0.7, labels)
    units = Rows(labels, 2, name, "test", draws=2).resample([guessed], "a").units

    def of(run, kept):
        return of_two_classes(name, guessed[run][kept], labels[kept])

    everything = np.arange(25)
    wanted = [
        [25 * of(run, everything) - 24 * of(run, np.delete(everything, row)) for row in everything] for run in range(3)
    ]
    np.testing.assert_allclose(units, wanted, atol=1e-9)
    if name == "accuracy":
        np.testing.assert_allclose(units, guessed == labels, atol=1e-9)


# --- the bootstrap -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["rows", "initialisations", "sets"])
def test_each_level_alone_gives_the_variance_of_its_bootstrap(level):
    """Where one level alone varies, draws have the variance of a mean drawn with replacement: Σ(x − x̄)² / n²."""
    right = np.arange(12) % 3 > 0  # 8 of 12
    labels = np.zeros(12, int)
    shapes = {"rows": (1, 1, 12), "initialisations": (1, 12, 1), "sets": (12, 1, 1)}
    predicted = np.broadcast_to(~right.reshape(shapes[level]), (*shapes[level][:2], 12)).astype(np.uint8)
    cell = Rows(labels, 2, "accuracy", "test", draws=20_000).resample(list(predicted), "a")
    assert cell.value == pytest.approx(8 / 12)
    assert cell.draws.mean() == pytest.approx(8 / 12, abs=0.005)
    assert cell.draws.var() == pytest.approx((8 / 12) * (4 / 12) / 12, rel=0.04)


def test_sets_are_drawn_whole_and_weigh_the_same():
    """Two sets that answer everything alike, one right and one wrong, of 1 and 9 initialisations: 0, 1/2 or 1."""
    labels = np.zeros(50, int)
    predicted = [np.zeros((1, 50), np.uint8), np.ones((9, 50), np.uint8)]
    cell = Rows(labels, 2, "accuracy", "test", draws=4000).resample(predicted, "a")
    values, counts = np.unique(cell.draws, return_counts=True)
    assert cell.value == 0.5
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_rows_are_drawn_together_for_both_cells():
    """Cells with the same answers differ by nothing in any draw, however much each varies."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 100)
    guessed = answers(random, random.random((1, 100)) < 0.6, labels)
    rows = Rows(labels, 2, "accuracy", "test", draws=500)
    a, b = (rows.resample([guessed], name) for name in ("a", "b"))
    assert a.draws.std() > 0.03
    assert np.array_equal(a.draws, b.draws)
    found = difference(a, b)
    assert (found.value, found.low, found.high, found.p, found.detectable(0.05)) == (0, 0, 0, 1, 0)


def test_one_run_each_is_the_paired_t_interval_over_rows():
    random = np.random.default_rng(4)
    labels = random.integers(0, 2, 2000)
    pair = [answers(random, random.random((1, 2000)) < p, labels) for p in (0.75, 0.7)]
    rows = Rows(labels, 2, "accuracy", "test", draws=10_000)
    found = difference(*(rows.resample([guessed], str(at)) for at, guessed in enumerate(pair)))
    right = [(guessed[0] == labels).astype(float) for guessed in pair]
    wanted = ttest_1samp(right[0] - right[1], 0)
    interval = wanted.confidence_interval(0.95)
    assert found.value == pytest.approx((right[0] - right[1]).mean())
    assert (found.freedom, found.p) == pytest.approx((1999, wanted.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.001)
    assert found.detectable(0.05) == pytest.approx(found.error * (t.ppf(0.975, 1999) + t.ppf(0.8, 1999)))
    assert found.detectable(0.01) == pytest.approx(found.error * (t.ppf(0.995, 1999) + t.ppf(0.8, 1999)))


def test_where_sets_alone_vary_it_is_welchs_interval():
    """Every set is right on all rows or on none: the t-test of set means with unequal variances."""
    labels = np.zeros(30, int)
    rights = [[1, 1, 1, 0, 1, 1, 0, 1], [0, 1, 0, 0, 1]]
    rows = Rows(labels, 2, "accuracy", "test", draws=4000)
    cells = [
        rows.resample([np.full((1, 30), 1 - right, np.uint8) for right in of_cell], str(at))
        for at, of_cell in enumerate(rights)
    ]
    found, wanted = difference(*cells), ttest_ind(*rights, equal_var=False)
    interval = wanted.confidence_interval(0.95)
    assert (found.value, found.freedom, found.p) == pytest.approx((0.75 - 0.4, wanted.df, wanted.pvalue))
    assert found.high - found.low == pytest.approx(interval.high - interval.low, rel=0.1)


def test_the_same_seed_gives_the_same_draws_and_another_name_others():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 60)
    predicted = [answers(random, random.random((3, 60)) < 0.6, labels) for _ in range(2)]

    def draws(name, cell):
        return Rows(labels, 2, "accuracy", name, draws=50).resample(predicted, cell).draws

    assert np.array_equal(draws("x", "a"), draws("x", "a"))
    assert not np.array_equal(draws("x", "a"), draws("x", "b"))
    assert not np.array_equal(draws("x", "a"), draws("y", "a"))


# --- permutations --------------------------------------------------------------------------------------------------


def test_the_permutation_test_is_scipys_on_correctness():
    random = np.random.default_rng(8)
    labels = random.integers(0, 2, 12)
    predicted = [answers(random, random.random((r, 12)) < p, labels) for r, p in ((3, 0.9), (5, 0.5))]
    rows = Rows(labels, 2, "accuracy", "test", draws=2)
    (found,) = rows.permute([tuple(rows.resample([of], str(at)) for at, of in enumerate(predicted))])
    right = [(of == labels).mean(0) for of in predicted]
    exact = permutation_test(  # all 4096 exchanges
        right, lambda a, b, axis: a.mean(axis) - b.mean(axis), permutation_type="samples", vectorized=True
    )
    assert found == pytest.approx(exact.pvalue)
    assert 0.001 < found < 0.5


@pytest.mark.parametrize("resamples", [200, 999])
def test_drawn_permutations_are_scipys_of_the_same_generator(resamples):
    random = np.random.default_rng(18)
    labels = random.integers(0, 2, 40)
    predicted = [answers(random, random.random((r, 40)) < p, labels) for r, p in ((3, 0.8), (5, 0.6))]
    rows = Rows(labels, 2, "accuracy", "test", draws=2)
    (found,) = rows.permute([tuple(rows.resample([of], str(at)) for at, of in enumerate(predicted))], resamples)
    half = np.subtract(*[(of == labels).mean(0) for of in predicted]) / 2
    drawn = permutation_test(
        (np.ones(40),),
        lambda signs, axis: np.round(2 * (signs @ half) / 40, 12),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=250,
        rng=_generator("test", "permutations"),
    )
    assert found == drawn.pvalue


def test_permuting_f1_is_permuting_the_answers():
    """Single runs: the answers of exchanged rows, and scikit-learn's F1 of them."""
    random = np.random.default_rng(9)
    labels = random.integers(0, 2, 7)
    one, other = (answers(random, random.random((1, 7)) < p, labels) for p in (0.9, 0.4))
    rows = Rows(labels, 2, "f1", "test", draws=2)
    (found,) = rows.permute([(rows.resample([one], "a"), rows.resample([other], "b"))])

    def f1_difference(exchanged):
        pair = np.where(exchanged, other[0], one[0]), np.where(exchanged, one[0], other[0])
        values = [of_two_classes("f1", of, labels) for of in pair]
        return round(values[0] - values[1], 12)

    all_of_them = [f1_difference((number >> np.arange(7)) & 1) for number in range(128)]
    observed = all_of_them[0]
    sides = np.mean([v <= observed for v in all_of_them]), np.mean([v >= observed for v in all_of_them])
    assert found == pytest.approx(min(1.0, 2 * min(sides)))


def test_tests_share_their_permutations():
    """p-values of one pair are the same alone and among others."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 80)
    rows = Rows(labels, 2, "mcc", "x", draws=2)
    cells = [rows.resample([answers(random, random.random((2, 80)) < p, labels)], str(p)) for p in (0.5, 0.6, 0.75)]
    pairs = [(cells[0], cells[1]), (cells[0], cells[2]), (cells[1], cells[2])]
    assert rows.permute(pairs) == [rows.permute([pair])[0] for pair in pairs]
    assert rows.permute([]) == []


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 -> times 4, 3, 2, 1 -> 0.04, 0.06, 0.06, 0.06 (never falling)
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# --- simulated data with known components ----------------------------------------------------------------------------


def cells_of(random, rows_part, mean, k, m, sets, inits, particular, labels):
    """Runs of k sets: P(right) = mean + row + set + initialisation + what is particular to a set and a row."""
    n = len(labels)
    p = mean + rows_part + random.normal(0, sets, (k, 1, 1)) + random.normal(0, inits, (k, m, 1))
    p = p + random.normal(0, particular, (k, 1, n))
    return list(answers(random, random.random((k, m, n)) < p, labels))


@functools.cache
def simulated(gap, k, m, sets, metric_name="accuracy", particular=0.1, simulations=300, rows=200):
    """For every simulation two cells whose true difference is ``gap``, and that difference as estimated."""
    random, found = np.random.default_rng(7), []
    for number in range(simulations):
        labels = random.integers(0, 2, rows)
        rows_part = random.uniform(-0.25, 0.25, rows)
        on = Rows(labels, 2, metric_name, f"simulation {number}", draws=300)
        cells = [
            on.resample(cells_of(random, rows_part, 0.6 + shift, k, m, sets, 0.02, particular, labels), name)
            for name, shift in (("a", gap), ("b", 0.0))
        ]
        found.append((difference(*cells), cells, on))
    return found


@functools.cache
def with_permutations(*how):
    """The differences of :func:`simulated` with the p-value of permutations."""
    return [(each, on.permute([tuple(cells)], 199)[0]) for each, cells, on in simulated(*how)]


def share(events):
    return float(np.mean(list(events)))


@pytest.mark.parametrize(("k", "m", "sets"), [(5, 4, 0.0), (5, 4, 0.03), (10, 1, 0.03), (3, 5, 0.02), (1, 10, 0.0)])
def test_the_hierarchical_interval_covers_the_true_difference(k, m, sets):
    found = simulated(0.05, k, m, sets)
    assert 0.92 <= share(each.low <= 0.05 <= each.high for each, *_ in found) <= 0.99


def test_without_the_levels_it_would_not_cover():
    """What a test over rows alone claims where sets differ: the reason for the hierarchy."""
    found = simulated(0.05, 5, 4, 0.03)
    rows_only = []
    for each, (a, b), _ in found:
        of_rows = a.units.mean(0) - b.units.mean(0)
        half = 1.96 * of_rows.std(ddof=1) / math.sqrt(len(of_rows))
        rows_only.append(abs(each.value - 0.05) <= half)
    assert share(rows_only) < 0.9


def test_it_covers_for_f1_too():
    found = simulated(0.0, 5, 4, 0.03, "f1")
    assert 0.92 <= share(each.low <= 0 <= each.high for each, *_ in found) <= 0.99


@pytest.mark.parametrize("sets", [0.0, 0.03])
def test_equal_methods_are_marked_in_at_most_a_twentieth(sets):
    """Whether sets differ or not; the permutation test over rows alone would mark far more where they do."""
    found = with_permutations(0.0, 5, 4, sets)
    marked = sum(max(each.p, p) < 0.05 and not each.low <= 0 <= each.high for each, p in found)
    assert binomtest(marked, 300, 0.05, alternative="greater").pvalue > 0.01, marked
    if sets:
        assert share(p < 0.05 for _, p in found) > 0.1


def test_a_detectable_difference_is_found_in_four_of_five():
    """The power at the minimum detectable difference that the variance estimates give on average."""
    nothing = simulated(0.0, 5, 4, 0.02)
    gap = round(float(np.mean([each.detectable(0.05) for each, *_ in nothing])), 3)
    power = share(max(each.p, p) < 0.05 for each, p in with_permutations(gap, 5, 4, 0.02))
    assert 0.7 <= power <= 0.92
    assert share(max(each.p, p) < 0.05 for each, p in with_permutations(round(gap / 3, 3), 5, 4, 0.02)) < 0.4


def test_a_table_of_equal_methods_is_free_of_marks_in_most_tables():
    """Four cells and their six tests, corrected together: a false mark in at most a twentieth of tables."""
    random, tables = np.random.default_rng(3), 0
    for number in range(150):
        labels, rows_part = random.integers(0, 2, 200), random.uniform(-0.25, 0.25, 200)
        on = Rows(labels, 2, "accuracy", f"table {number}", draws=300)
        cells = [
            on.resample(cells_of(random, rows_part, 0.6, 5, 2, 0.03, 0.02, 0.1, labels), str(name)) for name in range(4)
        ]
        pairs = [(a, b) for at, a in enumerate(cells) for b in cells[at + 1 :]]
        ps = [max(difference(a, b).p, p) for (a, b), p in zip(pairs, on.permute(pairs, 999), strict=True)]
        tables += min(holm(ps)) < 0.05
    assert binomtest(tables, 150, 0.05, alternative="greater").pvalue > 0.01, tables
