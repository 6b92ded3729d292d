"""What the tests of a table say: marks behind entries, sentences below, a frame of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.config import Distill
from pipeline.report.collect import Collected, Sample
from pipeline.report.layout import Column
from pipeline.report.row import Row
from pipeline.report.statistics.comparisons import LEVEL, OURS, Comparison, is_fair, ours, randoms
from pipeline.report.statistics.differences import DRAWS, PERMUTATIONS, Difference
from pipeline.report.words.language import origin

RANDOM_MARKS = {1: "↑", -1: "↓"}
OUR_MARKS = {1: "†", -1: "‡"}
_FRAME = [
    *("task", "model", "metric", "split", "first", "second", "difference", "ci_low", "ci_high", "error", "freedom"),
    *("p_permutation", "p_interval", "p_holm", "holds", "detectable", "detectable_holm", "n_split", "asked"),
    *("n_seed_first", "n_init_first", "n_seed_second", "n_init_second", "not_tested"),
]


class Verdicts:
    """All tests of a table."""

    def __init__(self, collected: Collected, found: Sequence[Comparison]) -> None:
        self._collected, self.found = collected, tuple(found)
        self._tested = [each for each in self.found if each.difference is not None]

    def mark(self, row: Row, column: Column) -> str:
        """What stands behind an entry: against random real samples, then against SL + AL."""
        by_random = {self._sign(row, other, column) for other in self._there(randoms(row, self._collected), column)}
        by_ours = {self._sign(best, row, column) for best in self._there(ours(row, self._collected), column)}
        found = zip((RANDOM_MARKS, OUR_MARKS), (by_random, by_ours), strict=True)
        return "".join(marks.get(next(iter(signs)) or 0, "") for marks, signs in found if len(signs) == 1)

    def best(self, column: Column) -> Row | None:
        """The small set whose mean is highest, where its tests against all others of the column hold."""
        samples = {row: self._collected.sample(row, column) for row in self._collected.layout.rows}
        means = {r: s.estimate.mean for r, s in samples.items() if s is not None and is_fair(r, self._collected)}
        if len(means) < 2:
            return None
        first, *others = sorted(means, key=lambda row: -means[row])
        return first if all(self._sign(first, other, column) == 1 for other in others) else None

    def caption(self) -> tuple[str, ...]:
        """How the tests were made, what they can find, what was not tested."""
        layout = self._collected.layout
        beside = any(
            self._there(ours(row, self._collected), column) for row in layout.rows for column in layout.columns
        )
        parts = [_how(len(self._tested), beside), _detectable(self._tested)] if self._tested else []
        return tuple(filter(None, [*parts, self._untested()]))

    def sentences(self) -> tuple[str, ...]:
        """One line per pair of ``report.compare`` and column; pairs of a column without results share one."""
        asked = [each for each in self.found if each.asked]
        without: dict[str, list[Comparison]] = {}
        for each in asked:
            if each.points is None:
                without.setdefault(each.column.title, []).append(each)
        return tuple(
            self._sentence(each) if each.points is not None else self._uncomputed(without[each.column.title])
            for each in asked
            if each.points is not None or each is without[each.column.title][0]
        )

    def frame(self) -> pd.DataFrame:
        """One row per comparison; differences in the metric's own units."""
        return pd.DataFrame([self._record(each) for each in self.found], columns=_FRAME)

    def _there(self, rows: Sequence[Row], column: Column) -> list[Row]:
        """Those that have a number in this column: others say nothing of it."""
        return [row for row in rows if self._collected.sample(row, column) is not None]

    def _sign(self, a: Row, b: Row, column: Column) -> int | None:
        """Of a − b; None where it was not compared."""
        for each in self.found:
            if each.column == column and {each.first, each.second} == {a, b}:
                return each.sign if each.first == a else -each.sign
        return None

    def _pair(self, each: Comparison) -> str:
        return " − ".join(self._collected.layout.labels[row] for row in (each.first, each.second))

    def _uncomputed(self, pairs: Sequence[Comparison]) -> str:
        reasons = dict.fromkeys(reason for each in pairs for reason in each.reasons)
        names = ", ".join(self._pair(each) for each in pairs)
        return f"{pairs[0].column.title}: {names}: not computed; {_listed(tuple(reasons))}."

    def _sentence(self, each: Comparison) -> str:
        assert each.points is not None  # the others are told together
        start = f"{each.column.title}: {self._pair(each)} = {100 * each.points:+.1f} points"
        found = each.difference
        if found is None:
            return f"{start}; not tested; {_listed(each.reasons)}."
        p = "p < 0.001" if each.p_holm < 0.001 else f"p = {each.p_holm:.3f}"
        tests = len(self._tested)
        count = "1 test" if tests == 1 else f"{tests} tests"
        sizes = [f"{100 * found.detectable(alpha):.1f}" for alpha in _levels(tests)]
        detectable = f"{sizes[0]} points" + (f" ({sizes[1]} at Holm's first step)" if tests > 1 else "")
        varied = "; ".join(self._varied(row, each.column) for row in (each.first, each.second))
        return (
            f"{start}, 95 % interval [{100 * found.low:.1f}, {100 * found.high:.1f}], {p} (Holm over {count}): "
            f"{'holds' if each.sign else 'undecided'}. Detectable: {detectable}. Varied: rows; "
            f"{varied}."
        )

    def _varied(self, row: Row, column: Column) -> str:
        sample = self._collected.sample(row, column)
        assert sample is not None
        name = self._collected.layout.labels[row]
        chosen = self._collected.entries[row, column].chosen
        assert chosen is not None
        return f"{name}, nothing" if row.is_constant else f"{name}, {_varied(sample, chosen.starts)}"

    def _untested(self) -> str:
        reasons = [
            (f"{name} on {each.column.title}" if len(self._collected.layout.columns) > 1 else name, why)
            for each in self.found
            for name, why in each.reasons
            if not each.asked
        ]
        return f"Not tested: {_listed(reasons)}." if reasons else ""

    def _record(self, each: Comparison) -> dict[str, Any]:
        column, labels = each.column, self._collected.layout.labels
        record: dict[str, Any] = {"task": column.task, "model": column.model, "metric": column.metric}
        record |= {"split": column.split, "first": labels[each.first], "second": labels[each.second]}
        record |= {"difference": each.points, "asked": each.asked, "not_tested": _listed(each.reasons)}
        record["n_split"] = self._collected.size(column, column.split)
        for which, row in (("first", each.first), ("second", each.second)):
            sample = self._collected.sample(row, column)
            if sample is not None:
                record |= {f"n_seed_{which}": len(sample.by_set), f"n_init_{which}": max(map(len, sample.by_set))}
        if (found := each.difference) is not None:
            record |= {"ci_low": found.low, "ci_high": found.high, "error": found.error, "freedom": found.freedom}
            record |= {"p_permutation": each.p_permutation, "p_interval": found.p, "p_holm": each.p_holm}
            record |= {"holds": bool(each.sign)}
            plain, corrected = map(found.detectable, _levels(len(self._tested)))
            record |= {"detectable": plain, "detectable_holm": corrected}
        return record


def _listed(reasons: Sequence[tuple[str, str]]) -> str:
    """What is the matter with which rows, those of the same matter together."""
    names: dict[str, list[str]] = {}
    for name, why in dict.fromkeys(reasons):
        names.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(of)}: {why}" for why, of in names.items())


def _how(tests: int, beside_ours: bool) -> str:
    count = "the one test" if tests == 1 else f"all {tests} tests"
    mine = f"; {OUR_MARKS[1]} / {OUR_MARKS[-1]} below / above {OURS} at the same budget" if beside_ours else ""
    return (
        f"Marks: {RANDOM_MARKS[1]} / {RANDOM_MARKS[-1]} above / below random real at the same budget (where there are "
        f"several such rows: all of them){mine}. "
        f"They stand where two tests both reject at 5 % after Holm's correction for {count} of this table, and the "
        f"95 % interval excludes zero: a permutation test ({PERMUTATIONS:,} permutations, paired over rows, of the "
        f"answers averaged over runs), and Student's t on the variance over rows, sets and initialisations, to which "
        f"the interval is stretched (hierarchical bootstrap, {DRAWS:,} draws). Bold: the highest mean of the small "
        f"sets, where that holds against each of the others in its column. No mark means undecided, not equal."
    )


def _levels(tests: int) -> tuple[float, float]:
    """α of a test by itself, and of Holm's first step, the strictest."""
    return LEVEL, LEVEL / tests


def _detectable(tested: Sequence[Comparison]) -> str:
    """The smallest and largest minimum detectable difference of every column."""
    columns: dict[str, list[Difference]] = {}
    for each in tested:
        assert each.difference is not None
        columns.setdefault(each.column.title, []).append(each.difference)
    levels = list(dict.fromkeys(_levels(len(tested))))
    parts = []
    for title, found in columns.items():
        ranges = []
        for alpha in levels:
            sizes = [100 * difference.detectable(alpha) for difference in found]
            ranges.append(" to ".join(dict.fromkeys((f"{min(sizes):.1f}", f"{max(sizes):.1f}"))))
        parts.append(f"{title} {' and '.join(ranges)}")
    corrected = f" by itself and at Holm's first step, α .05 / {len(tested)}" if len(levels) > 1 else ""
    return f"Minimum detectable difference (80 % power, α .05 two-sided){corrected}, points: {'; '.join(parts)}."


def _varied(sample: Sample, starts: Sequence[Distill]) -> str:
    """What differs between the runs of a sample, so what an interval over them can speak of.

    ``starts``: the distinct cells that its sets start from.
    """
    k = len(sample.by_set)
    sets = " ".join(filter(None, ("1 set" if k == 1 else f"{k} sets", origin(starts, k))))
    alone = ", so not what another set would give" if k == 1 else ""
    shared = ", so not what making it anew would give" if len(starts) == 1 < k else ""
    return f"{len(sample.values)} initialisations of {sets}{alone}{shared}"
