"""Cells as flat dotted keys: which of them are alternatives for one place of a table, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.config import Composed, Distill, Evaluate, Prepare
from pipeline.config.schema import Frozen, identifying

RUNS_ONLY = ("distill.seed", "evaluate.seed", "evaluate.initialisations", "evaluate.splits")


def alternatives(cells: Sequence[Evaluate]) -> list[list[Evaluate]]:
    """The cells of one place, those that differ in seeds only together."""
    groups: dict[str, list[Evaluate]] = {}
    for cell in cells:
        groups.setdefault(repr(hyper_parameters(cell)), []).append(cell)
    return list(groups.values())


def searched(cells: Sequence[Evaluate]) -> tuple[str, ...]:
    """The dotted keys in which alternatives differ."""
    settings = [hyper_parameters(cell) for cell in cells]
    keys = dict.fromkeys(key for each in settings for key in each)
    return tuple(key for key in keys if len({repr(each.get(key)) for each in settings}) > 1)


def hyper_parameters(cell: Evaluate) -> dict[str, Any]:
    """Dotted key -> value of everything in a cell that is not a seed or a number of runs."""
    found = flat(cell.source.source, "prepare") | flat(cell.source, "distill") | flat(cell, "evaluate")
    for path, start in _starts(cell.source, "distill"):
        found |= {path: start.method.name} | flat(start, path) | flat(start.source, f"{path}.source")
        del found[f"{path}.seed"]
    if cell.data is not None:
        found |= flat(cell.data, "evaluate.data")
    return {key: value for key, value in found.items() if key not in RUNS_ONLY}


def flat(config: Frozen, path: str) -> dict[str, Any]:
    """Dotted key -> value of everything in a config but what runs it, and other cells."""
    found: dict[str, Any] = {}
    for name in identifying(type(config)):
        value = getattr(config, name)
        if isinstance(value, Prepare | Distill) or (name in ("parent", "data", "others") and not value):
            continue
        if isinstance(value, Frozen):
            found |= flat(value, f"{path}.{name}")
        elif isinstance(value, tuple) and value and all(isinstance(one, Frozen) for one in value):
            for number, one in enumerate(value):
                found |= flat(one, f"{path}.{name}.{number}")
        else:
            found[f"{path}.{name}"] = value
    return found


def _starts(made: Distill, path: str) -> Iterator[tuple[str, Distill]]:
    """The dotted keys of all cells of stage 2 that one goes back to."""
    composed = isinstance(made.method, Composed)
    for number, one in enumerate(made.made_of):
        own = f"{path}.method.parts.{number}.of" if composed else f"{path}.parent"
        yield own, one
        yield from _starts(one, own)
