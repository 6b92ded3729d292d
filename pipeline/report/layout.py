"""From cells to rows and columns: which results belong to one table entry, and what rows and columns are called.

A row is a method with its budget; a column is one set of splits and one encoder, the students'. A set that another
encoder was used to make has a row of its own, which names that one. Whatever else two cells differ in is a
hyper-parameter, except what ``report.apart`` names, which makes rows, and seeds, the number of initialisations and the
scored splits, which only add runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.config import Evaluate, Prepare
from pipeline.report.alternatives import flat
from pipeline.report.row import Row
from pipeline.report.words.cells import encoder_name
from pipeline.report.words.rows import row_of, told_apart

_NOT_A_SPLIT = ("prepare.max_length", "prepare.revision", "prepare.vectors", "prepare.model.")


@dataclass(frozen=True)
class Column:
    """One set of splits and one encoder; ``examples`` of the rows of each, where they are drawn."""

    key: str
    task: str
    model: str
    title: str
    metric: str
    classes: int | None
    split: Literal["dev", "test"]
    prepares: tuple[Prepare, ...] = field(compare=False)
    examples: int | None = None


@dataclass(frozen=True)
class Layout:
    """The rows and columns of an experiment; ``places[k]`` is where its k-th cell belongs."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    labels: dict[Row, str]
    places: tuple[tuple[Row, Column], ...]

    def members(self, cells: Sequence[Evaluate]) -> dict[tuple[Row, Column], list[Evaluate]]:
        """The cells of every place."""
        found: dict[tuple[Row, Column], list[Evaluate]] = {}
        for cell, place in zip(cells, self.places, strict=True):
            found.setdefault(place, []).append(cell)
        return found


def layout(cells: Sequence[Evaluate], table: str, apart: Sequence[str] = ()) -> Layout:
    """Rows in the paper's order, columns in the file's.

    Args:
        cells: of a grid.
        table: as ``report.table``.
        apart: dotted keys whose values make rows of their own, as ``report.apart``.

    Raises:
        InputError: cells of no row differ in one of ``apart``.

    """
    rows = told_apart([row_of(cell) for cell in cells], cells, apart)
    keys = [column_key(cell) for cell in cells]
    columns = _columns(cells, keys)
    places = tuple(zip(rows, [columns[key] for key in keys], strict=True))
    distinct = tuple(sorted(set(rows)))
    return Layout(distinct, tuple(columns.values()), _labels(distinct, table), places)


def column_key(cell: Evaluate) -> str:
    """What a cell's column is told by: its splits, or how many rows are drawn of each, and its encoder."""
    prepare = cell.prepared
    splits = {key: value for key, value in flat(prepare, "prepare").items() if not key.startswith(_NOT_A_SPLIT)}
    drawn = [] if cell.examples is None else [cell.examples]
    return json.dumps([splits, prepare.model.model_dump(), *drawn], default=str, sort_keys=True)


def _columns(cells: Sequence[Evaluate], keys: Sequence[str]) -> dict[str, Column]:
    members: dict[str, list[Evaluate]] = {}
    for cell, key in zip(cells, keys, strict=True):
        members.setdefault(key, []).append(cell)
    named = {key: _names(found[0].prepared) for key, found in members.items()}
    several = len({model for _, model in named.values()}) > 1
    columns = {}
    for key, found in members.items():
        prepare = found[0].prepared
        task, model = named[key]
        twins = [members[other][0].prepared for other, names in named.items() if names == named[key]]
        task += _apart(prepare, twins) or (f" ({found[0].examples or 'all'} rows)" if len(twins) > 1 else "")
        columns[key] = Column(
            key=key,
            task=task,
            model=model,
            title=f"{task}, {model}" if several else task,
            metric=prepare.task.metric,
            classes=len(prepare.task.labels) if prepare.task.labels else None,
            split="test" if any("test" in cell.splits for cell in found) else "dev",
            prepares=tuple({cell.prepared.model_dump_json(): cell.prepared for cell in found}.values()),
            examples=found[0].examples,
        )
    return columns


def _names(prepare: Prepare) -> tuple[str, str]:
    return prepare.task.name, encoder_name(prepare)


def _apart(prepare: Prepare, twins: Sequence[Prepare]) -> str:
    """What tells a column from others of the same task and encoder, such as `` (seed=1)``."""
    flats = [flat(twin, "prepare") for twin in twins]
    own = flat(prepare, "prepare")
    keys = dict.fromkeys(key for flat in flats for key in flat if not key.startswith(_NOT_A_SPLIT[:3]))
    differ = [key for key in keys if len({str(flat.get(key)) for flat in flats}) > 1]
    words = ", ".join(f"{key.removeprefix('prepare.')}={own.get(key)}" for key in differ)
    return f" ({words})" if words else ""


def _labels(rows: Sequence[Row], table: str) -> dict[Row, str]:
    ddal = [row for row in rows if row.kind == "ddal"]
    methods = {row.method for row in ddal}
    stepped = {row.budget for row in rows if row.kind in ("random", "coreset") and row.steps}
    budgets = max(len({row.budget for row in ddal}), len({row.shots for row in rows if row.competes}), len(stepped)) > 1
    mixed = len({row.on_test for row in ddal}) > 1 or any(row.on_test for row in rows if row.kind == "mixture")
    labels = {}
    for row in rows:
        parts = [row.method]
        if row.kind == "ddal" and table == "table3":
            parts = [row.budget] if len(methods) == 1 else [row.method, row.budget]
        elif row.competes and budgets:
            parts = [row.method, row.budget]
        labels[row] = ", ".join(filter(None, parts)) + (" [selected on test]" if mixed and row.on_test else "")
    return labels
