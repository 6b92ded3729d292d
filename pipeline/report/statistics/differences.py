"""Differences between cells on the same rows: hierarchical bootstrap, paired permutation, Holm's correction.

Three things vary: the rows of the split, the sets and, within a set, the initialisations. Everything is computed from
predicted classes, so that every metric is computed again in every draw. NumPy and SciPy only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
POWER = 0.8
DRAWS = 10_000
PERMUTATIONS = 9_999
_CHUNK = 250  # draws at a time
Floats = npt.NDArray[Any]
Classes = npt.NDArray[np.integer[Any]]


class Difference(NamedTuple):
    """A difference of two cells in the metric's own units.

    ``low`` and ``high`` bound its 95 % interval; ``error`` is its standard error with ``freedom`` degrees of freedom;
    ``p`` is the two-sided p-value of their Student's t. Where the bootstrap's draws are skewed, the interval is too,
    and may touch zero a little earlier or later than ``p`` says.
    """

    value: float
    low: float
    high: float
    error: float
    freedom: float
    p: float

    def detectable(self, alpha: float) -> float:
        """The smallest true difference found with 80 % power at the two-sided level ``alpha``."""
        from scipy.stats import t

        return float(self.error * (t.ppf(1 - alpha / 2, self.freedom) + t.ppf(POWER, self.freedom)))


@dataclass(frozen=True)
class Resampled:
    """A cell on the rows of a column.

    Attributes:
        value: the metric, the mean over sets of the means over their initialisations.
        values: [runs] of each.
        draws: [draws] the same in every bootstrap draw.
        units: [units, rows] jackknife pseudo-values of the metric, of which a unit's value is the mean: for accuracy,
            correctness. Units are what is independent: sets, or the initialisations of the only one.
        shares: [2, C, rows] the share of runs that answer class c, rightly and at all.

    """

    value: float
    values: Floats
    draws: Floats
    units: Floats
    shares: Floats


class Rows:
    """The rows that cells are compared on; all cells see the same draws of rows, which makes the draws paired.

    Args:
        labels: [rows] true classes; at least two rows.
        classes: C.
        metric: accuracy, balanced_accuracy, macro_f1, mcc; for two classes also f1 and accuracy_f1.
        name: what the random draws follow from.
        draws: of the bootstrap.

    """

    def __init__(self, labels: Classes, classes: int, metric: str, name: str, draws: int = DRAWS) -> None:
        self.labels, self.classes, self.metric, self._name = labels, classes, metric, name
        self._true = _one_hot(labels, classes)
        rows, random = len(labels), _generator(name, "rows")
        self._counts = np.empty((draws, rows), np.uint16)  # how often a row is in a draw
        for start in range(0, draws, _CHUNK):
            drawn = random.integers(0, rows, (min(_CHUNK, draws - start), rows))
            drawn += rows * np.arange(len(drawn))[:, None]
            counts = np.bincount(drawn.ravel(), minlength=drawn.size)
            self._counts[start : start + len(drawn)] = counts.reshape(drawn.shape)

    def resample(self, predicted: Sequence[Classes], name: str) -> Resampled:
        """A cell.

        Args:
            predicted: [initialisations, rows] predicted classes, for each of its sets.
            name: of the cell; its draws of sets and initialisations follow from it.

        """
        runs, sizes = np.concatenate(predicted), np.array([len(of_set) for of_set in predicted])
        guessed = _one_hot(runs, self.classes)
        hits = guessed * self._true[:, None]
        answers = _total(hits), _total(guessed)  # [C, runs]
        values = metric(self.metric, *answers, _total(self._true)[:, None])
        pseudo = self._pseudo_values(runs, *answers, values)
        per_set = np.split(pseudo, sizes.cumsum()[:-1])
        weights = np.repeat(1 / (len(sizes) * sizes), sizes)
        return Resampled(
            value=float(weights @ values),
            values=values,
            draws=self._draws(hits, guessed, sizes, _generator(self._name, name)),
            units=np.stack([of_set.mean(0) for of_set in per_set]) if len(sizes) > 1 else pseudo,
            shares=np.stack([np.tensordot(weights, found, (0, 1)) for found in (hits, guessed)]),
        )

    def permute(self, pairs: Sequence[tuple[Resampled, Resampled]], resamples: int = PERMUTATIONS) -> list[float]:
        """Two-sided p-value of every pair; the same permutations for all.

        A permutation exchanges, row by row, what the two cells answered. What is compared is the metric of the answers
        averaged over runs; for accuracy that is the difference of the means.
        """
        if not pairs:
            return []
        firsts, seconds = (np.stack([pair[at].shares for pair in pairs]) for at in (0, 1))
        sums, halves = (firsts + seconds).sum(-1) / 2, (firsts - seconds) / 2  # [pairs, 2, C], [pairs, 2, C, rows]
        flat, true = halves.reshape(-1, halves.shape[-1]).T.copy(), _total(self._true)

        def statistic(signs: Floats) -> Floats:
            swung = (signs @ flat).reshape(*signs.shape[:-1], *sums.shape)
            found = []
            for answers in (sums + swung, sums - swung):
                hits, guessed = np.moveaxis(answers, (-2, -1), (0, 1))
                found.append(metric(self.metric, hits, guessed, true.reshape(-1, *[1] * (hits.ndim - 1))))
            return np.round(found[0] - found[1], 12)  # ties stay ties

        rows = len(self.labels)
        observed = statistic(np.ones(rows))
        drawn = np.concatenate([statistic(signs) for signs in _signs(rows, resamples, self._name)])
        near = 100 * np.finfo(float).eps * np.abs(observed)
        sides = [(drawn <= observed + near).sum(0), (drawn >= observed - near).sum(0)]
        own = int(2**rows > resamples)  # of draws, what was observed is one more
        return [float(p) for p in np.minimum(1.0, 2 * ((np.minimum(*sides) + own) / (len(drawn) + own)))]

    def _draws(self, hits: Floats, guessed: Floats, sizes: Classes, random: np.random.Generator) -> Floats:
        """[draws] the metric with rows, sets and initialisations drawn with replacement."""
        channels = [hits, guessed, self._true]
        if self.metric == "accuracy":  # one class says it all, right, and how often a class was given does not count
            channels = [channel.sum(0, keepdims=True) for channel in (hits, self._true, self._true)]
        columns = np.concatenate([channel.reshape(-1, channel.shape[-1]) for channel in channels]).T  # one product
        ends = np.cumsum([channel[..., 0].size for channel in channels])[:-1]
        begins, k, most = sizes.cumsum() - sizes, len(sizes), sizes.max()
        found = np.empty(len(self._counts))
        for start in range(0, len(found), _CHUNK):
            counts = self._counts[start : start + _CHUNK].astype(np.float32)  # sums of ones: exact
            parts = np.split(counts @ columns, ends, axis=1)
            sums = [part.reshape(len(counts), len(channels[0]), -1).swapaxes(0, 1) for part in parts]
            values = metric(self.metric, *(of_classes.astype(float) for of_classes in sums))  # [chunk, runs]
            sets = random.integers(0, k, (len(counts), k))
            within = (random.random((len(counts), k, most)) * sizes[sets][..., None]).astype(int)
            at = begins[sets][..., None] + within
            drawn = np.take_along_axis(values, at.reshape(len(counts), -1), 1).reshape(at.shape)
            used = np.arange(most) < sizes[sets][..., None]
            found[start : start + _CHUNK] = ((drawn * used).sum(-1) / sizes[sets]).mean(-1)
        return found

    def _pseudo_values(self, runs: Classes, hits: Floats, guessed: Floats, values: Floats) -> Floats:
        """[runs, rows]; leaving out a row depends on its true and predicted class alone, so C² of them are computed."""
        rows, unit, true = len(self.labels), np.eye(self.classes)[..., None], _total(self._true)[:, None]
        without = np.empty((len(runs), self.classes, self.classes))
        for y in range(self.classes):
            for p in range(self.classes):
                left = hits - unit[y] * (y == p), guessed - unit[p], true - unit[y]
                without[:, y, p] = metric(self.metric, *left)
        return rows * values[:, None] - (rows - 1) * without[np.arange(len(runs))[:, None], self.labels, runs]


def _signs(rows: int, resamples: int, name: str) -> Iterator[Floats]:
    """Chunks [draws, rows] of ±1, −1 where a row is exchanged: draws, or all that there are where those are fewer.

    SciPy's ``permutation_test`` of the same generator draws the same ones, with a loop over rows.
    """
    random = _generator(name, "permutations")
    number = min(2**rows, resamples)
    for start in range(0, number, _CHUNK):
        size = min(_CHUNK, number - start)
        if number == 2**rows:
            exchanged = np.arange(start, start + size)[:, None] >> np.arange(rows) & 1
        else:
            exchanged = random.permuted(np.tile([0, 1], (min(_CHUNK, number), rows, 1)), axis=-1)[:size, :, 0]
        yield 1.0 - 2.0 * exchanged


def difference(first: Resampled, second: Resampled) -> Difference:
    """``first`` − ``second`` with an interval over rows, sets and initialisations.

    Rows are paired. Sets and initialisations count as independent between cells, although those of one seed start from
    the same classifiers: where that makes them alike, the interval is too wide rather than too narrow.

    The percentile interval of the bootstrap is too narrow where there are few sets, and counts what is particular to a
    set and a row twice (Owen, Annals of Applied Statistics 2007). It is therefore stretched about the estimate, to the
    unbiased variance of a two-way layout and to Student's t with Satterthwaite's degrees of freedom (Hesterberg, The
    American Statistician 2015, "expanded percentile interval").
    """
    from scipy.stats import norm, t

    value = first.value - second.value
    draws = first.draws - second.draws
    rows = _variance_of_mean(first.units.mean(0) - second.units.mean(0))
    parts = [_of_units(cell.units) for cell in (first, second)]
    variance = rows + sum(max(0.0, of_units - shared) for of_units, shared, _ in parts)
    spread = float(draws.var(ddof=1))
    if variance <= 0 or spread <= 0:
        return Difference(value, value, value, 0.0, np.inf, float(value == 0))
    squares = [rows**2 / (first.units.shape[1] - 1), *(of_units**2 / f for of_units, _, f in parts if f)]
    freedom = variance**2 / sum(squares)
    error = float(np.sqrt(variance))
    stretch = t.ppf(0.5 + LEVEL / 2, freedom) / norm.ppf(0.5 + LEVEL / 2) * error / np.sqrt(spread)
    low, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    p = float(2 * t.sf(abs(value) / error, freedom))
    return Difference(value, value - stretch * (value - low), value + stretch * (high - value), error, freedom, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Scandinavian Journal of Statistics 1979), in the given order."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def metric(name: str, hits: Floats, guessed: Floats, true: Floats) -> Floats:
    """A metric from counts, as scikit-learn defines it; counts may be fractions.

    Args:
        name: see :class:`Rows`.
        hits: [C, …] rows of class c that were given class c.
        guessed: [C, …] rows that were given class c.
        true: [C, …] rows of class c.

    """
    right, n = hits.sum(0), true.sum(0)
    accuracy: Floats = right / n
    if name == "accuracy":
        return accuracy
    if name == "mcc":
        spread = (n**2 - (guessed**2).sum(0)) * (n**2 - (true**2).sum(0))
        return _ratio(right * n - (guessed * true).sum(0), np.sqrt(np.maximum(spread, 0)))
    if name == "balanced_accuracy":
        return _ratio(_ratio(hits, true).sum(0), (true > 0).sum(0))
    of_classes = _ratio(2 * hits, guessed + true)
    found: Floats = of_classes.mean(0) if name == "macro_f1" else of_classes[1]
    return (found + accuracy) / 2 if name == "accuracy_f1" else found


def _ratio(above: Floats, below: Floats) -> Floats:
    """Zero where nothing is to be divided by."""
    below = np.broadcast_to(below, above.shape)
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)


def _one_hot(classes: Classes, count: int) -> Floats:
    """[C, …] in float32."""
    found: Floats = (classes == np.arange(count).reshape(-1, *[1] * classes.ndim)).astype(np.float32)
    return found


def _total(counts: Floats) -> Floats:
    """Over rows."""
    found: Floats = counts.sum(-1, dtype=float)
    return found


def _variance_of_mean(values: Floats) -> float:
    return float(values.var(ddof=1) / len(values))


def _of_units(units: Floats) -> tuple[float, float, int]:
    """Variance of the mean over units; what of it is particular to units and rows; degrees of freedom."""
    count, rows = units.shape
    if count == 1:
        return 0.0, 0.0, 0
    means = units.mean(1)
    rest = units - means[:, None] - units.mean(0) + units.mean()
    return _variance_of_mean(means), float((rest**2).sum() / ((count - 1) * (rows - 1) * count * rows)), count - 1


def _generator(*names: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(":".join(names).encode()).digest()[:8], "big"))
