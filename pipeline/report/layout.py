"""From cells to rows and columns: which results belong to one table entry, and what rows and columns are called.

A row is a method with its budget; a column is one set of splits and one encoder, the students'. A set that another
encoder was used to make has a row of its own, which names that one. Whatever else two cells differ in is a
hyper-parameter, except what ``report.apart`` names, which makes rows, and seeds, the number of initialisations and the
scored splits, which only add runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pipeline.config import (
    BPTT,
    DDAL,
    Composed,
    Coreset,
    Empty,
    Evaluate,
    FineTune,
    FullData,
    Generated,
    GradientSteps,
    Imported,
    Majority,
    Prepare,
    Project,
    Prompted,
    RandomReal,
    Sentences,
    Text,
)
from pipeline.config.problems import nearest
from pipeline.errors import InputError
from pipeline.report.alternatives import flat, hyper_parameters, searched
from pipeline.report.words.cells import ATTENTION, BUDGETS, LABELS, REAL, correction, encoder_name, real_name
from pipeline.report.words.composed import composed_name, is_small
from pipeline.report.words.language import generated_name, generated_order
from pipeline.report.words.prompts import prompted_name, prompted_order
from pipeline.report.words.text import text_row
from pipeline.report.words.vectors import bptt_name, bptt_order, network_name, student_name, student_order

_DATA = ("-", "same", "different", "random")
_NOT_A_SPLIT = ("prepare.max_length", "prepare.revision", "prepare.vectors", "prepare.model.")


Kind = Literal["majority", "zero-shot", "random", "coreset", "ddal", "full", "mixture"]


class Row(NamedTuple):
    """A method and its budget; rows sort in the order of the paper's tables.

    ``data`` says what the T inner steps see: ``same`` (every step the whole set), ``different`` blocks of it,
    ``random`` draws, or ``-`` where there is one step. ``on_test``: its checkpoint was selected on the test split.
    ``kind``: ``ddal`` stands for every learned set, ``mixture`` for all rows of one task beside something of another,
    or of several tasks. ``network``: who learns from vectors, empty where students learn
    from text; ``student``: by which recipe, too.
    """

    order: tuple[int, ...]
    method: str
    kind: Kind
    steps: int | None
    shots: int | None
    data: str
    on_test: bool
    student: str = ""
    network: str = ""

    @property
    def competes(self) -> bool:
        """Whether it is a small set; full data, majority and zero-shot are references."""
        return self.kind in ("random", "coreset", "ddal")

    @property
    def is_constant(self) -> bool:
        """Whether nothing about it is drawn, so that a single run is all there is."""
        return self.kind in ("majority", "zero-shot")

    @property
    def budget(self) -> str:
        """Such as ``3 steps, 1 shot, same``; empty for full data and majority."""
        parts = [f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((self.steps, "step"), (self.shots, "shot")) if n]
        return ", ".join([*parts, self.data] if self.data not in ("", "-") else parts)


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
    columns = _columns(cells)
    places = tuple(zip(rows, [columns[column_key(cell)] for cell in cells], strict=True))
    distinct = tuple(sorted(set(rows)))
    return Layout(distinct, tuple(columns.values()), _labels(distinct, table), places)


def row_of(cell: Evaluate) -> Row:
    """The row that a cell's result belongs to."""
    row = _own_row(cell)
    if isinstance(cell.protocol, Prompted):
        student = prompted_name(cell)
        row = row._replace(method=_by(row.method, student), order=(*row.order, *prompted_order(cell)), student=student)
        if isinstance(cell.source.method, Empty | RandomReal):  # no encoder had a part in these
            return row
    if cell.data is None or isinstance(cell.source.method, Composed):
        return row
    if cell.asks_part:  # students of several tasks, beside those of this one alone
        kind: Kind = "mixture" if row.kind == "full" else row.kind
        return row._replace(method=f"{row.method}, of {cell.source.source.task.name}", order=(*row.order, 1), kind=kind)
    return row._replace(method=f"{row.method}, made with {_names(cell.source.source)[1]}", order=(*row.order, 1))


def told_apart(rows: Sequence[Row], cells: Sequence[Evaluate], apart: Sequence[str]) -> list[Row]:
    """The rows of cells, in which those keys of ``apart`` that cells of one row differ in are named.

    They stand in the order in which their values come in the grid.
    """
    if not apart:
        return list(rows)
    settings = [hyper_parameters(cell) for cell in cells]
    alike: dict[Row, list[int]] = {}
    for number, row in enumerate(rows):
        alike.setdefault(row, []).append(number)
    differ = {row: searched([cells[number] for number in numbers]) for row, numbers in alike.items()}
    for key in apart:
        if not any(key in keys for keys in differ.values()):
            allowed = list(dict.fromkeys(name for keys in differ.values() for name in keys))
            choice = f"allowed: {', '.join(allowed)}" if allowed else "nothing else differs in a row; leave it out"
            raise InputError(f"report.apart: no two cells of a row differ in '{key}'{nearest(key, allowed)}; {choice}")
    values = [tuple(repr(each.get(key)) for key in apart) for each in settings]
    position = {value: place for place, value in enumerate(dict.fromkeys(values))}
    return [
        row._replace(method=f"{row.method}, {_named(keys, own)}", order=(*row.order, position[value])) if keys else row
        for row, own, value in zip(rows, settings, values, strict=True)
        for keys in [[key for key in apart if key in differ[row]]]
    ]


def _named(keys: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Such as ``lr=0.1``, by the last parts of the keys where those differ."""
    last = {key: key.rpartition(".")[2] for key in keys}
    short = len(set(last.values())) == len(last)
    return ", ".join(f"{last[key] if short else key}={settings.get(key)}" for key in keys)


def _own_row(cell: Evaluate) -> Row:
    method = cell.source.method
    if isinstance(method, Composed):
        name, by_steps = composed_name(method, _own_row), isinstance(cell.recipe, GradientSteps)
        name += ", fine-tuned" if method.has_steps and not by_steps else ""
        rest = len(ATTENTION) + 3, len(method.parts), int(not by_steps)
        if is_small(method):
            return Row((2, *rest), name, "ddal", None, None, "", False)
        return Row((3, *rest), name, "mixture", None, None, "", False)
    if isinstance(method, Majority):
        return Row((0,), "majority", "majority", None, None, "", False)
    if isinstance(method, Empty):
        return Row((0, 1), "zero-shot", "zero-shot", None, None, "", False)
    if isinstance(method, RandomReal | Coreset):
        return _real_row(method, cell)
    if isinstance(method, FullData):
        student, last = student_name(cell), (3, *student_order(cell))
        return Row(last, _by("full data", student), "full", None, None, "", False, student, network_name(cell))
    if isinstance(method, BPTT):
        return _bptt_row(method, cell)
    if isinstance(method, Generated | Sentences | Text | Project | Imported):
        return _text_row(method, cell)
    if not isinstance(method, DDAL):
        return _unnamed_row(cell)
    data = "-" if method.steps == 1 else "same" if method.shots == method.batch_shots else "different"
    if data == "different" and method.order == "random":
        data = "random"
    on_test = method.validation.split == "test"
    ranks = list(ATTENTION).index(method.attention_labels), list(LABELS).index(method.labels), _DATA.index(data)
    shots = cell.shots or method.shots
    order: tuple[int, ...] = (2, *ranks, method.steps, shots, int(on_test))
    label = LABELS[method.labels] + ATTENTION[method.attention_labels] + correction(method)
    if isinstance(cell.recipe, FineTune):
        order, label = (*order, 1), f"{label}, fine-tuned"
    return Row(order, label, "ddal", method.steps, shots, data, on_test)


def _text_row(method: Generated | Sentences | Text | Project | Imported, cell: Evaluate) -> Row:
    if isinstance(method, Generated):
        place = (2, len(ATTENTION) + 2, *generated_order(cell.source), cell.shots or 0)
        return Row(place, generated_name(cell.source), "ddal", None, cell.shots, "", False)
    (place, label, on_test), student = text_row(cell.source), student_name(cell)
    order = (2, len(ATTENTION) + 1, *place, *student_order(cell), cell.shots or 0)
    return Row(order, _by(label, student), "ddal", None, cell.shots, "", on_test, student, network_name(cell))


def _unnamed_row(cell: Evaluate) -> Row:
    """Of a method that no words were written for: it stands last of the small sets, under the name that YAML has."""
    by_steps = isinstance(cell.recipe, GradientSteps)
    name = cell.source.method.name.replace("_", " ") + (", gradient steps" if by_steps else "")
    order = (2, len(ATTENTION) + 4, int(by_steps), cell.shots or 0)
    return Row(order, name, "ddal", None, cell.shots, "", False, student_name(cell), network_name(cell))


def _bptt_row(method: BPTT, cell: Evaluate) -> Row:
    on_test = method.validation.split == "test"
    order = (2, len(ATTENTION), *student_order(cell), *bptt_order(method), cell.shots or 0, int(on_test))
    student, name = student_name(cell), bptt_name(method, cell.student) + correction(method)
    return Row(order, _by(name, student), "ddal", None, cell.shots, "", on_test, student, network_name(cell))


def _by(method: str, student: str) -> str:
    return f"{method}, {student}" if student else method


def _real_row(method: RandomReal | Coreset, cell: Evaluate) -> Row:
    name, protocol, shots = real_name(method), cell.recipe, cell.shots or method.shots
    student = student_name(cell)
    label = _by(name + BUDGETS[method.budget], student)
    steps = len(protocol.step_sizes or ()) if isinstance(protocol, GradientSteps) else None
    place = REAL.index(name) if name in REAL else len(REAL)
    ranks = place, list(BUDGETS).index(method.budget), *student_order(cell)
    order = (1, *ranks, steps or 0, shots)
    kind: Literal["random", "coreset"] = "random" if isinstance(method, RandomReal) else "coreset"
    if steps is None:
        return Row(order, label, kind, None, shots, "", False, student, network_name(cell))
    return Row(order, f"{label}, gradient steps", kind, steps, shots, "-" if steps == 1 else "same", False)


def column_key(cell: Evaluate) -> str:
    """What a cell's column is told by: its splits, or how many rows are drawn of each, and its encoder."""
    prepare = cell.prepared
    splits = {key: value for key, value in flat(prepare, "prepare").items() if not key.startswith(_NOT_A_SPLIT)}
    drawn = [] if cell.examples is None else [cell.examples]
    return json.dumps([splits, prepare.model.model_dump(), *drawn], default=str, sort_keys=True)


def _columns(cells: Sequence[Evaluate]) -> dict[str, Column]:
    members: dict[str, list[Evaluate]] = {}
    for cell in cells:
        members.setdefault(column_key(cell), []).append(cell)
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
    mixed = len({row.on_test for row in ddal}) > 1
    labels = {}
    for row in rows:
        parts = [row.method]
        if row.kind == "ddal" and table == "table3":
            parts = [row.budget] if len(methods) == 1 else [row.method, row.budget]
        elif row.competes and budgets:
            parts = [row.method, row.budget]
        labels[row] = ", ".join(filter(None, parts)) + (" [selected on test]" if mixed and row.on_test else "")
    return labels
