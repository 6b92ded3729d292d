"""Which row of a table a cell belongs to, and what that row is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
    Project,
    Prompted,
    RandomReal,
    Sentences,
    Text,
)
from pipeline.config.problems import nearest
from pipeline.errors import InputError
from pipeline.report.alternatives import hyper_parameters, searched
from pipeline.report.row import Kind, Row
from pipeline.report.words.cells import (
    ATTENTION,
    BUDGETS,
    LABELS,
    REAL,
    correction,
    encoder_name,
    is_on_test,
    real_name,
)
from pipeline.report.words.composed import composed_name, is_small
from pipeline.report.words.language import generated_name, generated_order
from pipeline.report.words.prompts import prompted_name, prompted_order
from pipeline.report.words.text import text_row
from pipeline.report.words.vectors import bptt_name, bptt_order, network_name, student_name, student_order

_DATA = ("-", "same", "different", "random")


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
    return row._replace(method=f"{row.method}, made with {encoder_name(cell.source.source)}", order=(*row.order, 1))


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
        small, on_test = is_small(method), is_on_test(cell.source)
        return Row((2 if small else 3, *rest), name, "ddal" if small else "mixture", None, None, "", on_test)
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
    on_test = is_on_test(cell.source)
    order = (2, len(ATTENTION) + 4, int(by_steps), cell.shots or 0, int(on_test))
    return Row(order, name, "ddal", None, cell.shots, "", on_test, student_name(cell), network_name(cell))


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
