"""Tests between the rows of a table: which pairs, and what comes out.

By default every small set is compared with random real samples of its budget, and SL + AL with every small set;
``report.compare`` adds pairs. All tests of a table are corrected together (Holm). A test rejects where both of its
parts do, the permutation test over rows and the one that inverts the hierarchical interval: the first does not know
that another set or initialisation would have answered otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.report.collect import Alternative, Collected, Entry
from pipeline.report.layout import Column
from pipeline.report.pairs import asked_pairs, same_budget
from pipeline.report.row import Row
from pipeline.report.statistics.differences import Classes, Difference, Resampled, Rows, difference, holm

LEVEL = 0.05
OURS = "SL + AL"
AGAIN = "remove the folders in evaluate/ and run stage 3 again"


@dataclass(frozen=True)
class Comparison:
    """``first`` − ``second`` in one column.

    Attributes:
        asked: by ``report.compare``.
        points: the difference of the means, None where one of them is not there.
        difference: with its interval, None where nothing was tested.
        p_permutation, p_holm: of the permutation test alone; of the whole test after correction.
        reasons: why nothing was tested: labels of rows and what is the matter with them.

    """

    first: Row
    second: Row
    column: Column
    asked: bool
    points: float | None = None
    difference: Difference | None = None
    p_permutation: float = 1.0
    p_holm: float = 1.0
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def p(self) -> float:
        """Uncorrected, of both parts: the larger one."""
        return max(self.p_permutation, self.difference.p if self.difference else 1.0)

    @property
    def sign(self) -> int:
        """1 or −1 where the corrected test and the interval hold, else 0."""
        found = self.difference
        if found is None or self.p_holm >= LEVEL or found.low <= 0 <= found.high:
            return 0
        return 1 if found.value > 0 else -1


def compare(asked: Sequence[tuple[str, ...]], collected: Collected) -> tuple[Comparison, ...]:
    """Makes all tests of a table.

    Args:
        asked: pairs of labels, see :func:`~pipeline.report.pairs.asked_pairs`.
        collected: what there is.

    Raises:
        InputError: no row has such a label, or no two rows of a pair have the same budget.

    """
    pairs = asked_pairs(asked, collected.layout)
    known = {frozenset(pair) for pair in pairs}
    defaults = [pair for pair in _defaults(collected) if frozenset(pair) not in known]
    columns = collected.layout.columns
    gridded = {pair: [c for c in columns if all((row, c) in collected.entries for row in pair)] for pair in pairs}
    found: list[Comparison] = []
    for column in columns:
        # a pair that stands together nowhere is named everywhere: it was asked for
        planned = [Comparison(*pair, column, asked=True) for pair in pairs if column in (gridded[pair] or columns)]
        planned += [Comparison(*pair, column, asked=False) for pair in defaults]
        there = [each for each in planned if each.asked or _both_there(each, collected)]
        found += _tested(there, column, collected)
    return _corrected(found)


def compare_pairs(pairs: Sequence[tuple[Row, Row]], collected: Collected) -> tuple[Comparison, ...]:
    """Makes these tests alone, every pair in every column, and corrects them together."""
    found: list[Comparison] = []
    for column in collected.layout.columns:
        found += _tested([Comparison(*pair, column, asked=True) for pair in pairs], column, collected)
    return _corrected(found)


def _corrected(found: list[Comparison]) -> tuple[Comparison, ...]:
    tests = [index for index, each in enumerate(found) if each.difference is not None]
    for index, p in zip(tests, holm([found[index].p for index in tests]), strict=True):
        found[index] = replace(found[index], p_holm=p)
    return tuple(found)


def _tested(planned: Sequence[Comparison], column: Column, collected: Collected) -> list[Comparison]:
    """The comparisons of a column, not yet corrected."""
    needed = dict.fromkeys(row for each in planned for row in (each.first, each.second))
    rows, cells = _cells(list(needed), column, collected)
    labels = collected.layout.labels
    found = []
    for each in planned:
        first, second = (collected.sample(row, column) for row in (each.first, each.second))
        points = None if first is None or second is None else first.estimate.mean - second.estimate.mean
        blamed = [
            row for row in (each.first, each.second) if points is not None or collected.sample(row, column) is None
        ]
        reasons = [(labels[row], why) for row in blamed if isinstance(why := cells[row], str)]
        found.append(replace(each, points=points, reasons=tuple(reasons)))
    able = [index for index, each in enumerate(found) if not each.reasons]
    pairs = [(cells[found[index].first], cells[found[index].second]) for index in able]
    if rows is not None:
        for index, (a, b), p in zip(able, pairs, rows.permute(pairs), strict=True):
            found[index] = replace(found[index], difference=difference(a, b), p_permutation=p)
    return found


def _cells(needed: Sequence[Row], column: Column, collected: Collected) -> tuple[Rows | None, dict[Row, Any]]:
    """What the cells of rows are resampled on; and every row's cell resampled, or why it cannot be."""
    cells: dict[Row, Resampled | str] = {}
    on: Rows | None = None
    for row in needed:
        name = collected.layout.labels[row]
        answers = _answers(collected.entries.get((row, column)))
        if isinstance(answers, str):
            cells[row] = answers
            continue
        labels, classes, predicted = answers
        on = on or Rows(labels, classes, column.metric, f"{column.title} {column.metric}")
        cells[row] = "scored on other rows than the others"
        if np.array_equal(on.labels, labels):
            found, sample = on.resample(predicted, name), collected.sample(row, column)
            scores = () if sample is None else sample.values
            same = len(found.values) == len(scores) and np.allclose(found.values, scores, rtol=0, atol=1e-6)
            cells[row] = found if same else f"predictions are not those of the results, {AGAIN}"
    return on, cells


def _answers(entry: Entry | None) -> tuple[Classes, int, list[Classes]] | str:
    """True classes [rows], C, predicted classes [initialisations, rows] of every set; or why there are none."""
    if entry is None:
        return "not in the grid"
    if entry.chosen is None or entry.headline is None:
        return entry.state if entry.chosen is None else f"no {entry.column.split} scores"
    if len(entry.headline.values) == 1 and not entry.row.is_constant:
        return "a single run"
    found = _predicted(entry.chosen, entry.column.split)
    return found or f"evaluated before predictions were stored, {AGAIN}"


def _predicted(chosen: Alternative, split: str) -> tuple[Classes, int, list[Classes]] | None:
    """What :func:`_answers` returns, None where a cell has no predictions."""
    cells = [(cell.config, cell.predictions(split)) for cell in chosen.cells if split in cell.config.splits]
    sets: dict[tuple[int, ...], dict[tuple[tuple[int, ...], int, int], Classes]] = {}
    for config, found in cells:
        if found is None:
            return None
        seeds = config.source.seeds
        keys = [(seeds, config.seed, number) for number in found.initialisations]
        sets.setdefault(seeds if chosen.is_drawn else (), {}).update(zip(keys, found.predicted, strict=True))
        labels, classes = found.labels, found.classes
    return labels, classes, [np.stack([runs[key] for key in sorted(runs)]) for _, runs in sorted(sets.items())]


def _defaults(collected: Collected) -> list[tuple[Row, Row]]:
    pairs = [(row, other) for row in collected.layout.rows for other in randoms(row, collected)]
    pairs += [(best, row) for row in collected.layout.rows for best in ours(row, collected)]
    found: dict[frozenset[Row], tuple[Row, Row]] = {}
    for pair in pairs:
        found.setdefault(frozenset(pair), pair)
    return list(found.values())


def randoms(row: Row, collected: Collected) -> list[Row]:
    """The random real samples that a small set is compared with."""
    rows = [other for other in collected.layout.rows if other.kind == "random" and same_budget(row, other)]
    return rows if is_fair(row, collected) and row.kind != "random" else []


def ours(row: Row, collected: Collected) -> list[Row]:
    """The rows of SL + AL that a small set is compared with."""
    rows = [r for r in collected.layout.rows if r.kind == "ddal" and r.method == OURS and is_fair(r, collected)]
    return [best for best in rows if best != row and is_fair(row, collected) and same_budget(best, row)]


def is_fair(row: Row, collected: Collected) -> bool:
    """Whether marks compare it: a small set, and not one that test selected, or may have, where others were not."""
    fair = any(other.kind == "ddal" and not _perhaps_on_test(other, collected) for other in collected.layout.rows)
    return row.competes and not (fair and _perhaps_on_test(row, collected))


def _perhaps_on_test(row: Row, collected: Collected) -> bool:
    return row.on_test or row in collected.foreign


def _both_there(each: Comparison, collected: Collected) -> bool:
    return all(collected.sample(row, each.column) is not None for row in (each.first, each.second))
