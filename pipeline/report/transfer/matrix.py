"""Transfer: what sets of text are worth to the students of other encoders than the one they were made with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.config import Experiment
from pipeline.report.collect import Collected, Entry, Sample
from pipeline.report.layout import Column, column_key, layout
from pipeline.report.row import Row

OF_FULL, OF_OWN = "full data", "own encoder"


class Retention(NamedTuple):
    """What a score is of another one.

    Attributes:
        share: 1 is all of it; chance is not subtracted.
        std: sample standard deviation over sets, or over the initialisations of a single set beside full data; ``None``
            where there is nothing to tell it from.
        of: ``full data`` of the column's encoder, or the same sets' score on their ``own encoder``.

    """

    share: float
    std: float | None
    of: str


@dataclass(frozen=True)
class Line:
    """The sets of one method that one encoder was used to make.

    Attributes:
        row: of such a set on its own encoder.
        label: what the table calls it, without the encoder.
        source: that encoder.
        own: its column; ``None`` where none of its students was to be trained.
        entries: of every column in which the grid has students of these sets.
        seen: keys of the columns of other encoders for whose students the sets were learned, too.

    """

    row: Row
    label: str
    source: str
    own: Column | None
    entries: dict[Column, Entry]
    seen: frozenset[str] = field(default=frozenset(), compare=False)

    def saw(self, column: Column) -> bool:
        """Whether students of the column's encoder, which is not the sets' own, learned while they were distilled."""
        return column.key in self.seen


@dataclass(frozen=True)
class Matrix:
    """A task: rows are sets with the encoder they were made with, columns the encoders whose students learn."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    collected: Collected

    @property
    def task(self) -> str:
        """Its name."""
        return self.columns[0].task

    @property
    def sees(self) -> bool:
        """Whether a set was learned for students of several encoders."""
        return any(line.seen for line in self.lines)

    def full(self, column: Column) -> Sample | None:
        """The runs of the column's encoder on all rows, where the grid has them and some are finished."""
        return self.collected.reference("full", column)

    def retention(self, line: Line, column: Column) -> Retention | None:
        """Of an entry; ``None`` where it, or what it would be measured by, has no score."""
        entry = line.entries.get(column)
        ours = {} if entry is None else _by_set(entry)
        if not ours:
            return None
        full = self.full(column)
        if full is not None:
            (first, *others) = ours.values()
            units = _means(ours).values() if others else first
            return _retention([(value, full.estimate.mean) for value in units], OF_FULL)
        own = None if line.own is None else line.entries.get(line.own)
        theirs = {} if own is None else _means(_by_set(own))
        both = [(mean, theirs[seeds]) for seeds, mean in _means(ours).items() if seeds in theirs]
        return _retention(both, OF_OWN)


def matrices(experiment: Experiment, collected: Collected) -> tuple[Matrix, ...]:
    """One per task of which a set is learned from by another encoder; sets that never are have no line.

    Language models, which are prepared with another head, are no students.
    """
    is_moved = [bool(cell.data and cell.data.model.head == "classifier") for cell in experiment.cells]
    if not any(is_moved):
        return ()
    # where the same sets would be, learned from by their own encoder
    cells = [
        cell.model_copy(update={"data": None}) if moved else cell
        for cell, moved in zip(experiment.cells, is_moved, strict=True)
    ]
    home = layout(cells, experiment.report.table, experiment.report.apart)
    at = {column.key: column for column in collected.layout.columns}
    lines: dict[tuple[Row, str], Line] = {}
    of_cells = zip(experiment.cells, is_moved, collected.layout.places, home.places, strict=True)
    for cell, place, (row, source) in ((cell, place, own) for cell, moved, place, own in of_cells if moved):
        own = at.get(source.key)
        seen = frozenset(column_key(cell.model_copy(update={"data": one})) for one in cell.source.others)
        new = Line(row, home.labels[row], source.model, own, {}, seen)
        line = lines.setdefault((row, source.key), new)
        line.entries[place[1]] = collected.entries[place]
        if own is not None and (row, own) in collected.entries:
            line.entries[own] = collected.entries[row, own]
    found: dict[str, list[Line]] = {}
    for line in lines.values():
        found.setdefault(next(iter(line.entries)).task, []).append(line)
    return tuple(_matrix(collected, of_task) for of_task in found.values())


def _matrix(collected: Collected, lines: list[Line]) -> Matrix:
    columns = tuple(c for c in collected.layout.columns if any(c in line.entries for line in lines))
    names = [column.model for column in columns]

    def order(line: Line) -> tuple[Row, int]:
        return line.row, names.index(line.source) if line.source in names else len(names)

    return Matrix(columns, tuple(sorted(lines, key=order)), collected)


def _by_set(entry: Entry) -> dict[tuple[int, ...], tuple[float, ...]]:
    """The runs of every set by the seeds of its chain, which are the same wherever it is learned from."""
    chosen, column = entry.chosen, entry.column
    if chosen is None or entry.headline is None:
        return {}
    if not chosen.is_drawn:
        return {(): entry.headline.values}
    # sets are numbered in the order of their seeds
    numbers, seeds = sorted(chosen.runs["set"].unique()), sorted({cell.config.source.seeds for cell in chosen.cells})
    names = dict(zip(numbers, seeds, strict=True))
    runs = chosen.runs[(chosen.runs["metric"] == column.metric) & (chosen.runs["split"] == column.split)]
    return {names[number]: tuple(map(float, values)) for number, values in runs["value"].groupby(runs["set"])}


def _means(by_set: dict[tuple[int, ...], tuple[float, ...]]) -> dict[tuple[int, ...], float]:
    return {seeds: math.fsum(values) / len(values) for seeds, values in by_set.items()}


def _retention(pairs: Sequence[tuple[float, float]], of: str) -> Retention | None:
    """The ratio of means, and the deviation of the ratios of pairs."""
    if not pairs or not all(theirs > 0 for _, theirs in pairs):
        return None
    ratios = [ours / theirs for ours, theirs in pairs]
    share = math.fsum(ours for ours, _ in pairs) / math.fsum(theirs for _, theirs in pairs)
    return Retention(share, statistics.stdev(ratios) if len(ratios) > 1 else None, of)
