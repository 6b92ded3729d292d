"""What the tests of a table say: marks behind entries, sentences below, a frame of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.report.collect import Collected, Sample
from pipeline.report.comparisons import OURS, Comparison, ours, randoms
from pipeline.report.layout import Column, Row
from pipeline.report.statistics import DRAWS, PERMUTATIONS

RANDOM_MARKS = {1: "↑", -1: "↓"}
OUR_MARKS = {1: "†", -1: "‡"}
_FRAME = [
    *("task", "model", "metric", "split", "first", "second", "difference", "ci_low", "ci_high", "error", "freedom"),
    *("p_permutation", "p_interval", "p_holm", "holds", "detectable", "n_split", "asked"),
    *("n_seed_first", "n_init_first", "n_seed_second", "n_init_second", "not_tested"),
]


class Verdicts:
    """All tests of a table."""

    def __init__(self, collected: Collected, found: Sequence[Comparison]) -> None:
        self._collected, self.found = collected, tuple(found)

    def mark(self, row: Row, column: Column) -> str:
        """What stands behind an entry: against random real samples, then against SL + AL."""
        by_random = {self._sign(row, other, column) for other in randoms(row, self._collected)}
        by_ours = {self._sign(best, row, column) for best in ours(row, self._collected)}
        found = zip((RANDOM_MARKS, OUR_MARKS), (by_random, by_ours), strict=True)
        return "".join(marks.get(next(iter(signs)) or 0, "") for marks, signs in found if len(signs) == 1)

    def caption(self) -> tuple[str, ...]:
        """How the tests were made, what they can find, what was not tested."""
        tested = [each for each in self.found if each.difference is not None]
        return tuple(filter(None, [_how(len(tested)) if tested else "", _detectable(tested), self._untested()]))

    def sentences(self) -> tuple[str, ...]:
        """One line per pair of ``report.compare`` and column."""
        tests = sum(each.difference is not None for each in self.found)
        return tuple(self._sentence(each, tests) for each in self.found if each.asked)

    def frame(self) -> pd.DataFrame:
        """One row per comparison; differences in the metric's own units."""
        return pd.DataFrame([self._record(each) for each in self.found], columns=_FRAME)

    def _sign(self, a: Row, b: Row, column: Column) -> int | None:
        """Of a − b; None where it was not compared."""
        for each in self.found:
            if each.column == column and {each.first, each.second} == {a, b}:
                return each.sign if each.first == a else -each.sign
        return None

    def _sentence(self, each: Comparison, tests: int) -> str:
        names = [self._collected.layout.labels[row] for row in (each.first, each.second)]
        start = f"{each.column.title}: {names[0]} − {names[1]}"
        if each.points is None:
            return f"{start}: not computed; {_listed(each.reasons)}."
        start += f" = {100 * each.points:+.1f} points"
        found = each.difference
        if found is None:
            return f"{start}; not tested; {_listed(each.reasons)}."
        p = "p < 0.001" if each.p_holm < 0.001 else f"p = {each.p_holm:.3f}"
        count = "1 test" if tests == 1 else f"{tests} tests"
        varied = "; ".join(self._varied(row, each.column) for row in (each.first, each.second))
        return (
            f"{start}, 95 % interval [{100 * found.low:.1f}, {100 * found.high:.1f}], {p} (Holm over {count}): "
            f"{'holds' if each.sign else 'undecided'}. Detectable: {100 * found.detectable:.1f} points. Varied: rows; "
            f"{varied}."
        )

    def _varied(self, row: Row, column: Column) -> str:
        sample = self._collected.sample(row, column)
        assert sample is not None
        name = self._collected.layout.labels[row]
        return f"{name}, nothing" if row.kind == "majority" else f"{name}, {_varied(sample)}"

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
            record |= {"holds": bool(each.sign), "detectable": found.detectable}
        return record


def _listed(reasons: Sequence[tuple[str, str]]) -> str:
    """What is the matter with which rows, those of the same matter together."""
    names: dict[str, list[str]] = {}
    for name, why in dict.fromkeys(reasons):
        names.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(of)}: {why}" for why, of in names.items())


def _how(tests: int) -> str:
    count = "the one test" if tests == 1 else f"all {tests} tests"
    return (
        f"Marks: {RANDOM_MARKS[1]} / {RANDOM_MARKS[-1]} above / below random real at the same budget (where there are "
        f"several such rows: all of them); {OUR_MARKS[1]} / {OUR_MARKS[-1]} below / above {OURS} at the same budget. "
        f"They stand where, corrected for {count} of this table (Holm, 5 %), both a permutation test "
        f"({PERMUTATIONS:,} permutations, paired over rows, of the answers averaged over runs) and a hierarchical "
        f"bootstrap ({DRAWS:,} draws of rows, sets and initialisations, stretched for few sets) reject. No mark means "
        f"undecided, not equal."
    )


def _detectable(tested: Sequence[Comparison]) -> str:
    """The smallest and largest minimum detectable difference of every column."""
    columns: dict[str, list[float]] = {}
    for each in tested:
        assert each.difference is not None
        columns.setdefault(each.column.title, []).append(100 * each.difference.detectable)
    parts = []
    for title, found in columns.items():
        least, most = f"{min(found):.1f}", f"{max(found):.1f}"
        parts.append(f"{title} {least}" + (f" to {most}" if most != least else ""))
    of = f"Minimum detectable difference (80 % power, α .05 two-sided, uncorrected), points: {', '.join(parts)}."
    return of if parts else ""


def _varied(sample: Sample) -> str:
    """What differs between the runs of a sample, so what an interval over them can speak of."""
    sets = "1 set" if len(sample.by_set) == 1 else f"{len(sample.by_set)} sets"
    alone = ", so not what another set would give" if len(sample.by_set) == 1 else ""
    return f"{len(sample.values)} initialisations of {sets}{alone}"
