"""From the store to table entries: reads every finished cell, pools runs, chooses hyper-parameters on dev.

One entry has alternatives (cells that differ in a hyper-parameter); an alternative has runs (distillation seeds times
initialisations). The alternative with the best mean of the task's metric on *dev* is reported; test is never looked at
to choose.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from pipeline.config import Distill, Evaluate, Experiment, Prepare
from pipeline.errors import InputError
from pipeline.report.alternatives import alternatives, hyper_parameters, searched
from pipeline.report.archive import Archive
from pipeline.report.finished import Finished, Problem, in_store
from pipeline.report.layout import Column, Layout, layout
from pipeline.report.pairs import check_choices
from pipeline.report.row import Row
from pipeline.report.statistics.intervals import Estimate, estimate
from pipeline.report.words.cells import is_unknown, recipe, rule, selection
from pipeline.store import Store
from pipeline.store.atomic import read_json

RUN = ["set", "draw", "initialisation"]


@dataclass(frozen=True)
class Sample:
    """The runs behind one number: the values of every set's initialisations, ordered by seed."""

    by_set: tuple[tuple[float, ...], ...]

    @property
    def values(self) -> tuple[float, ...]:
        """All of them."""
        return tuple(value for of_set in self.by_set for value in of_set)

    @property
    def size(self) -> str:
        """``sets × initialisations``, or the number of runs where sets have unequally many."""
        numbers = {len(of_set) for of_set in self.by_set}
        k = len(self.by_set)
        return f"{k} × {numbers.pop()}" if len(numbers) == 1 else f"{len(self.values)} of {k} sets"

    @property
    def estimate(self) -> Estimate:
        """Mean, variance components and interval."""
        return estimate(self.by_set)


@dataclass(frozen=True)
class Alternative:
    """The pooled runs of one choice of hyper-parameters.

    ``runs`` has the columns of ``results.csv`` and ``set``, ``draw`` (the seeds of ``Distill`` and ``Evaluate``; where
    sets of one seed differ in their parents' seeds, ``set`` counts them). ``is_drawn``: whether another seed gives
    another set; otherwise all runs are of one set. ``set_seconds``: of each set that was timed; ``parent_seconds``: of
    all parents that these sets go back to, each once.
    """

    settings: dict[str, Any]
    selection: str
    recipe: str
    rule: str | None
    is_drawn: bool
    runs: pd.DataFrame
    cells: tuple[Finished, ...]
    set_seconds: tuple[float, ...]
    parent_seconds: float = 0.0

    @property
    def is_unknown(self) -> bool:
        """Whether what selected its sets is not known, since others published them, or parts of them."""
        return any(is_unknown(cell.config.source) for cell in self.cells)

    @property
    def starts(self) -> tuple[Distill, ...]:
        """The cells of stage 2 that its sets start from, each once: alternatives have parents that differ in seeds."""
        parents = [cell.config.source.parent for cell in self.cells]
        return tuple({parent.seeds: parent for parent in parents if parent is not None}.values())

    @property
    def distill_seconds(self) -> float | None:
        """The mean over its sets, which share the parents that they have in common."""
        whole = sum(self.set_seconds) + self.parent_seconds
        return whole / len(self.set_seconds) if self.set_seconds else None

    @property
    def train_seconds(self) -> float:
        """Mean training seconds of one initialisation."""
        return float(self._trainings.mean())

    @property
    def seconds(self) -> float:
        """What all of its sets and trainings took together."""
        return sum(self.set_seconds) + self.parent_seconds + float(self._trainings.sum())

    def sample(self, metric: str, split: str) -> Sample | None:
        """The runs of one metric on one split, or None where it was not scored."""
        return self._samples.get((metric, split))

    @cached_property
    def _trainings(self) -> pd.Series[float]:
        return self.runs.drop_duplicates(RUN)["seconds"]

    @cached_property
    def _samples(self) -> dict[tuple[str, str], Sample]:
        """All of them at once: tables, tests and figures ask for the same few again and again."""
        found: dict[tuple[str, str], dict[int, list[float]]] = {}
        columns = (self.runs[name].tolist() for name in ("metric", "split", "set", "value"))
        for metric, split, of_set, value in zip(*columns, strict=True):
            sets = found.setdefault((metric, split), {})
            sets.setdefault(of_set if self.is_drawn else 0, []).append(float(value))
        return {key: Sample(tuple(tuple(sets[at]) for at in sorted(sets))) for key, sets in found.items()}


@dataclass(frozen=True)
class Entry:
    """What stands where a row and a column meet.

    ``axes`` are the dotted hyper-parameters that were searched; ``chosen`` is None while nothing is finished; ``tied``
    is how many alternatives share the best score, of which the first is chosen; ``search`` names another experiment
    that settled the hyper-parameters.
    """

    row: Row
    column: Column
    axes: tuple[str, ...]
    planned: int
    finished: int
    chosen: Alternative | None
    tied: int
    problems: tuple[Problem, ...]
    search: str | None = None

    def choice(self, short: bool = False) -> str:
        """The chosen hyper-parameters as ``dotted.key=value``, or by the keys' last parts where those differ."""
        settings = self.chosen.settings if self.chosen is not None else {}
        last = {axis: axis.rpartition(".")[2] for axis in self.axes}
        names = last if short and len(set(last.values())) == len(last) else {axis: axis for axis in self.axes}
        return ", ".join(f"{names[axis]}={_plain(settings[axis])}" for axis in self.axes if axis in settings)

    @property
    def selection(self) -> str:
        """How checkpoint and hyper-parameters were selected."""
        words = "" if self.chosen is None else self.chosen.selection
        if self.planned > 1:
            words += f"; hyper-parameters: dev {self.column.metric}, best of {self.finished}"
        elif self.search is not None:
            words += f"; hyper-parameters: dev {self.column.metric}, in {self.search}"
        return words

    @property
    def headline(self) -> Sample | None:
        """The runs of the task's metric on the column's split."""
        return self.chosen.sample(self.column.metric, self.column.split) if self.chosen else None

    @property
    def state(self) -> str:
        """Why there is no number."""
        states = {problem.state for problem in self.problems}
        return next((state for state in ("failed", "running", "unreadable", "partial") if state in states), "missing")


@dataclass(frozen=True)
class Collected:
    """All that the tables and figures show.

    ``cells`` are the finished ones, with the split that is reported; ``places`` is where each of them stands.
    """

    layout: Layout
    entries: dict[tuple[Row, Column], Entry]
    manifests: dict[Column, dict[str, Any]]
    prepared: tuple[tuple[Prepare, dict[str, Any]], ...]
    cells: tuple[tuple[Finished, str], ...]
    places: tuple[tuple[Row, Column], ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every cell without results, in the order of the table."""
        return tuple(problem for entry in self.entries.values() for problem in entry.problems)

    @cached_property
    def foreign(self) -> tuple[Row, ...]:
        """The rows with sets that others published, whole or in part, so that what selected them is not known."""
        chosen = [(row, entry.chosen) for (row, _), entry in self.entries.items() if entry.chosen is not None]
        return tuple(dict.fromkeys(row for row, found in chosen if found.is_unknown))

    def sample(self, row: Row, column: Column) -> Sample | None:
        """The runs behind a table entry, or None where there are none."""
        entry = self.entries.get((row, column))
        return None if entry is None else entry.headline

    def reference(self, kind: Literal["majority", "full"], column: Column, network: str = "") -> Sample | None:
        """The runs of the majority label or of full data, learned from by that ``network``; text without one."""
        return next((sample for row, sample in self.references(kind, column) if row.network == network), None)

    def references(self, kind: Literal["majority", "full", "zero-shot"], column: Column) -> list[tuple[Row, Sample]]:
        """The same of every student; without examples, of every way to ask."""
        found = [(row, self.sample(row, column)) for row in self.layout.rows if row.kind == kind]
        return [(row, sample) for row, sample in found if sample is not None]

    def classes(self, column: Column) -> int | None:
        """Number of classes, None while it is not known."""
        return len(self.manifests[column].get("classes", ())) or column.classes

    def size(self, column: Column, split: str) -> int | None:
        """Rows of a split that are learned from or scored, None while the task is not prepared."""
        sizes = self.manifests[column].get("sizes", {})
        if split not in sizes:
            return None
        drawn = column.examples if split != "train" else None
        return int(sizes[split]) if drawn is None else min(drawn, int(sizes[split]))


def collect(experiment: Experiment, store: Store, archive: Archive | None = None) -> Collected:
    """Reads all results of an experiment, from the archive where the store has none.

    Raises:
        InputError: hyper-parameters would have to be chosen without dev scores; a finished cell was made with another
            default; a local file of the config does not exist, and the archive does not have the cell.

    """
    check_choices(experiment)
    plan = layout(experiment.cells, experiment.report.table, experiment.report.apart)
    members = plan.members(experiment.cells)
    order = [(row, column) for column in plan.columns for row in plan.rows if (row, column) in members]
    found = [_read(cell, store, archive) for cell in experiment.cells]
    read = {cell.model_dump_json(): each for cell, each in zip(experiment.cells, found, strict=True)}
    entries = {place: _entry(*place, members[place], read, experiment.report.search) for place in order}
    prepared = [(prepare, _manifest(prepare, store, archive)) for column in plan.columns for prepare in column.prepares]
    manifests = {c: next((m for p, m in prepared if m and p in c.prepares), {}) for c in plan.columns}
    cells = [(each, at) for each, at in zip(found, plan.places, strict=True) if isinstance(each, Finished)]
    scored, places = tuple((each, column.split) for each, (_, column) in cells), tuple(at for _, at in cells)
    return Collected(plan, entries, manifests, tuple(prepared), scored, places)


def _read(config: Evaluate, store: Store, archive: Archive | None) -> Finished | Problem:
    try:
        found = in_store(config, store)
    except InputError:  # data or encoder are not there
        if archive is None or not len(archive):
            raise
        return archive.find(config) or Problem(config.slug, "prepare", "missing", None)
    return found if archive is None or isinstance(found, Finished) else archive.find(config) or found


def _manifest(prepare: Prepare, store: Store, archive: Archive | None) -> dict[str, Any]:
    archived = {} if archive is None else archive.manifest(prepare)
    try:
        return read_json(store.cell(prepare).folder / "manifest.json") or archived
    except InputError:
        if archive is None or not len(archive):
            raise
        return archived


def _entry(
    row: Row, column: Column, cells: Sequence[Evaluate], read: Mapping[str, Finished | Problem], search: str | None
) -> Entry:
    groups = alternatives(cells)
    axes = searched([group[0] for group in groups])
    found = [[read[cell.model_dump_json()] for cell in group] for group in groups]
    tried = [pooled([each for each in group if isinstance(each, Finished)]) for group in found]
    finished = [alternative for alternative in tried if alternative is not None]
    best = _best(finished, column, "test" if row.on_test else "dev")
    problems = tuple(each for group in found for each in group if isinstance(each, Problem))
    elsewhere = search if row.kind == "ddal" and not axes else None
    return Entry(row, column, axes, len(groups), len(finished), *best, problems, elsewhere)


def _best(finished: Sequence[Alternative], column: Column, split: str) -> tuple[Alternative | None, int]:
    """The best mean on the split that selects, the first of equals, and how many these are.

    That is dev, or test for the published protocol.
    """
    if len(finished) < 2:
        return finished[0] if finished else None, len(finished)
    samples = [alternative.sample(column.metric, split) for alternative in finished]
    scores = [found.estimate.mean for found in samples if found is not None]
    if len(scores) < len(finished):
        raise InputError(f"{column.title}: finished alternatives have no {split} scores; evaluate them on {split} too")
    return finished[scores.index(max(scores))], scores.count(max(scores))


def pooled(cells: Sequence[Finished]) -> Alternative | None:
    """The runs of cells that differ in seeds alone, every run once; None of no cells."""
    if not cells:
        return None
    number = _numbered({cell.config.source.seeds for cell in cells})
    frames = [cell.runs.assign(set=number[cell.config.source.seeds], draw=cell.config.seed) for cell in cells]
    # The same draw may have been scored by two cells that differ only in how many draws or splits they ask for.
    runs = pd.concat(frames).drop_duplicates([*RUN, "split", "metric"]).sort_values([*RUN, "split", "metric"])
    timed = [cell for cell in cells if cell.distill_seconds is not None]
    seconds = {cell.config.source.seeds: cell.distill_seconds for cell in timed if cell.distill_seconds is not None}
    parents = {name: took for cell in timed for name, took in cell.parent_seconds.items()}
    first = cells[0].config
    return Alternative(
        settings=hyper_parameters(first),
        selection=selection(first),
        recipe=recipe(first),
        rule=rule(first.source),
        is_drawn=first.source.is_drawn,
        runs=runs.reset_index(drop=True),
        cells=tuple(cells),
        set_seconds=tuple(seconds.values()),
        parent_seconds=sum(parents.values()),
    )


def _numbered(sets: Collection[tuple[int, ...]]) -> dict[tuple[int, ...], int]:
    """Sets by the seeds of their chains: each its own seed, or, where that does not tell them apart, counted."""
    plain = len({seeds[0] for seeds in sets}) == len(sets)
    return {seeds: seeds[0] if plain else position for position, seeds in enumerate(sorted(sets))}


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
