"""From the store to table entries: reads every finished cell, pools runs, chooses hyper-parameters on dev.

One entry has alternatives (cells that differ in a hyper-parameter); an alternative has runs (distillation seeds times
initialisations). The alternative with the best mean of the task's metric on *dev* is reported; test is never looked at
to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from pipeline.config import Evaluate, Experiment
from pipeline.errors import InputError
from pipeline.report.layout import (
    Column,
    Layout,
    Row,
    alternatives,
    check_choices,
    hyper_parameters,
    layout,
    recipe,
    searched,
    selection,
)
from pipeline.store import Cell, Store
from pipeline.store.atomic import read_json
from pipeline.store.cells import STAGE_NAMES

RUN = ["set", "draw", "initialisation"]
RESULTS = ["initialisation", "split", "metric", "value", "seconds"]


@dataclass(frozen=True)
class Problem:
    """A cell without results: the stage that stopped it, that stage's state and, where it failed, the reason."""

    slug: str
    stage: str
    state: str
    reason: str | None


@dataclass(frozen=True)
class Sample:
    """The runs behind one number, ordered by seed; ``sets`` distilled sets, ``initialisations`` of each."""

    values: tuple[float, ...]
    sets: int
    initialisations: int

    @property
    def size(self) -> str:
        """``sets × initialisations``, or the number of runs where sets have unequally many."""
        n = len(self.values)
        even = n == self.sets * self.initialisations
        return f"{self.sets} × {self.initialisations}" if even else f"{n} of {self.sets} sets"


@dataclass(frozen=True)
class Alternative:
    """The pooled runs of one choice of hyper-parameters.

    ``runs`` has the columns of ``results.csv`` and ``set``, ``draw`` (the seeds of ``Distill`` and ``Evaluate``).
    ``distill_seconds`` is the mean over its distilled sets.
    """

    settings: dict[str, Any]
    selection: str
    recipe: str
    runs: pd.DataFrame
    distill_seconds: float | None

    @property
    def train_seconds(self) -> float:
        """Mean training seconds of one initialisation."""
        return float(self.runs.drop_duplicates(RUN)["seconds"].mean())

    def sample(self, metric: str, split: str) -> Sample | None:
        """The runs of one metric on one split, or None where it was not scored."""
        found = self.runs[(self.runs["metric"] == metric) & (self.runs["split"] == split)]
        if found.empty:
            return None
        per_set = found.groupby("set").size()
        return Sample(tuple(float(v) for v in found["value"]), len(per_set), int(per_set.max()))


@dataclass(frozen=True)
class Entry:
    """What stands where a row and a column meet.

    ``axes`` are the dotted hyper-parameters that were searched; ``chosen`` is None while nothing is finished.
    """

    row: Row
    column: Column
    axes: tuple[str, ...]
    planned: int
    finished: int
    chosen: Alternative | None
    problems: tuple[Problem, ...]

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
    """All that the tables and figures show."""

    layout: Layout
    entries: dict[tuple[Row, Column], Entry]
    manifests: dict[Column, dict[str, Any]]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every cell without results, in the order of the table."""
        return tuple(problem for entry in self.entries.values() for problem in entry.problems)

    def sample(self, row: Row, column: Column) -> Sample | None:
        """The runs behind a table entry, or None where there are none."""
        entry = self.entries.get((row, column))
        return None if entry is None else entry.headline

    def reference(self, kind: Literal["majority", "full"], column: Column) -> Sample | None:
        """The runs of the majority label or of full data."""
        found = (self.sample(row, column) for row in self.layout.rows if row.kind == kind)
        return next((sample for sample in found if sample is not None), None)

    def classes(self, column: Column) -> int | None:
        """Number of classes, None while it is not known."""
        return len(self.manifests[column].get("classes", ())) or column.classes

    def size(self, column: Column, split: str) -> int | None:
        """Rows of a split, None while the task is not prepared."""
        sizes = self.manifests[column].get("sizes", {})
        return int(sizes[split]) if split in sizes else None


def collect(experiment: Experiment, store: Store) -> Collected:
    """Reads all results of an experiment.

    Raises:
        InputError: hyper-parameters would have to be chosen without dev scores; a finished cell was made with another
            default; a local file of the config does not exist.

    """
    check_choices(experiment)
    plan = layout(experiment.cells, experiment.report.table)
    members = plan.members(experiment.cells)
    order = [(row, column) for column in plan.columns for row in plan.rows if (row, column) in members]
    entries = {place: _entry(*place, members[place], store) for place in order}
    manifests: dict[Column, dict[str, Any]] = {}
    for column in plan.columns:
        found = [read_json(store.cell(prepare).folder / "manifest.json") for prepare in column.prepares]
        manifests[column] = next((manifest for manifest in found if manifest is not None), {})
    return Collected(plan, entries, manifests)


def _entry(row: Row, column: Column, cells: Sequence[Evaluate], store: Store) -> Entry:
    groups = alternatives(cells)
    axes = searched([group[0] for group in groups])
    problems: list[Problem] = []
    pooled = [_alternative(group, store, problems) for group in groups]
    finished = [alternative for alternative in pooled if alternative is not None]
    best = _best(finished, column, "test" if row.on_test else "dev")
    return Entry(row, column, axes, len(groups), len(finished), best, tuple(problems))


def _best(finished: Sequence[Alternative], column: Column, split: str) -> Alternative | None:
    """The best mean on the split that selects: dev, or test for the published protocol; the first of equals."""
    if len(finished) < 2:
        return finished[0] if finished else None
    samples = [alternative.sample(column.metric, split) for alternative in finished]
    scores = [sum(found.values) / len(found.values) for found in samples if found is not None]
    if len(scores) < len(finished):
        raise InputError(f"{column.title}: finished alternatives have no {split} scores; evaluate them on {split} too")
    return finished[scores.index(max(scores))]


def _alternative(cells: Sequence[Evaluate], store: Store, problems: list[Problem]) -> Alternative | None:
    frames = []
    seconds: dict[str, float] = {}
    for config in cells:
        read = _runs(config, store)
        if isinstance(read, Problem):
            problems.append(read)
            continue
        frames.append(read)
        source = store.cell(config.source)
        spent = source.seconds()
        seconds |= {} if spent is None else {source.digest: spent}
    if not frames:
        return None
    # The same draw may have been scored by two cells that differ only in how many draws or splits they ask for.
    runs = pd.concat(frames).drop_duplicates([*RUN, "split", "metric"]).sort_values([*RUN, "split", "metric"])
    mean = sum(seconds.values()) / len(seconds) if seconds else None
    return Alternative(
        hyper_parameters(cells[0]), selection(cells[0]), recipe(cells[0]), runs.reset_index(drop=True), mean
    )


def _runs(config: Evaluate, store: Store) -> pd.DataFrame | Problem:
    cell = store.cell(config)
    if cell.state != "done":
        blamed = _blamed(cell, config, store)
        return Problem(config.slug, STAGE_NAMES[type(blamed.config)], blamed.state, blamed.failure())
    cell.check()
    try:
        frame = pd.read_csv(cell.folder / "results.csv")[RESULTS]
    except (OSError, ValueError, KeyError) as error:
        reason = f"{cell.folder / 'results.csv'}: {error}; remove the folder and run stage 3 again"
        return Problem(config.slug, "evaluate", "unreadable", reason)
    metric = config.source.source.task.metric
    if metric not in set(frame["metric"]):
        return Problem(config.slug, "evaluate", "unreadable", f"{cell.folder / 'results.csv'} has no rows of {metric}")
    return frame.assign(set=config.source.seed, draw=config.seed)


def _blamed(cell: Cell, config: Evaluate, store: Store) -> Cell:
    """The earliest stage that holds the cell up: the one after the last finished one."""
    for source in (config.source, config.source.source):
        earlier = store.cell(source)
        if earlier.state == "done":
            break
        cell = earlier
    return cell


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
