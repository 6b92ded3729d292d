"""Finished evaluations of a store, or of a committed archive, as the scores of one set and of what stands beside it."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.config import Distill, Evaluate, Prepare, inputs
from pipeline.config.schema import canonical
from pipeline.errors import InputError
from pipeline.report.archive import Archive
from pipeline.report.card.facts import Evaluation, Reads, Score
from pipeline.report.words.cells import recipe
from pipeline.report.words.rows import row_of
from pipeline.store import Store
from pipeline.store.atomic import read_json

SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "mcc")


class Run(NamedTuple):
    """One number: of an initialisation, on a split."""

    initialisation: int
    split: str
    metric: str
    value: float


@dataclass(frozen=True)
class Scored:
    """A finished evaluation of any set."""

    config: Evaluate
    runs: tuple[Run, ...]


def read_runs(path: Path) -> tuple[Run, ...]:
    """The numbers of a ``results.csv``."""
    with open(path, newline="") as file:
        rows = csv.DictReader(file)
        return tuple(Run(int(r["initialisation"]), r["split"], r["metric"], float(r["value"])) for r in rows)


def in_store(store: Store) -> list[Scored]:
    """Every finished evaluation of a store, in the order of its folders; those of other versions are left out."""
    found = []
    for done in sorted((store.root / "evaluate").glob("*/done.json")):
        try:
            config = Evaluate.model_validate(read_json(done.with_name("config.json")))
        except ValidationError:
            continue
        if done.with_name("results.csv").is_file():
            found.append(Scored(config, read_runs(done.with_name("results.csv"))))
    return found


def from_archive(archive: Archive) -> list[Scored]:
    """Every evaluation of a committed experiment.

    Raises:
        InputError: there is none.

    """
    if not archive.runs.is_file():
        raise InputError(f"{archive.runs}: no such results; give their path without .runs.csv")
    return [
        Scored(config, tuple(Run(*row) for row in zip(*(frame[name].tolist() for name in Run._fields), strict=True)))
        for config, frame in archive.evaluations()
    ]


def distinct(known: Iterable[Scored]) -> list[Scored]:
    """Each evaluation once, as it was first found: the committed ones may also be in the store."""
    found: dict[str, Scored] = {}
    for each in known:
        found.setdefault(repr(canonical(each.config)), each)
    return list(found.values())


def evaluations_of(distill: Distill, known: Iterable[Scored]) -> tuple[Evaluation, ...]:
    """The scores of one set, pooled over the evaluations that differ in seeds and splits only.

    Standard deviations are of the sample (n − 1).
    """
    mine = [each for each in known if same(each.config.source, distill) and each.config.data is None]
    protocols = {_way(each.config): each.config for each in mine}
    wanted = dict.fromkeys((distill.source.task.metric, *SHOWN))
    found = []
    for name, config in protocols.items():
        members = [each for each in mine if _way(each.config) == name]
        scores = [
            score
            for split in ("dev", "test")
            for metric in wanted
            if (score := _score(split, metric, values_of(members, split, metric)))
        ]
        seeds = tuple(sorted({each.config.seed for each in members}))
        how = recipe(config) if config.prefix is None else f"the first {config.prefix} per class; {recipe(config)}"
        scored = {"how": how, "seeds": seeds, "scores": tuple(scores)}
        found.append(Evaluation(protocol=config.protocol, prefix=config.prefix, **scored))
    return tuple(found)


def values_of(members: Iterable[Scored], split: str, metric: str) -> list[float]:
    """The numbers of evaluations, those of every run once.

    The same run may have been scored by two cells that differ only in how many initialisations or splits they ask for.
    """
    asking: dict[str, Any] = {"initialisations": 1, "splits": (split,)}
    found: dict[tuple[str, int], float] = {}
    for each in members:
        trained = repr(canonical(each.config.model_copy(update=asking)))
        found |= {(trained, r.initialisation): r.value for r in each.runs if (r.split, r.metric) == (split, metric)}
    return list(found.values())


def _way(config: Evaluate) -> str:
    """What evaluations of one line of a card have in common."""
    return repr((canonical(config.protocol), config.prefix))


def _score(split: Any, metric: str, values: Sequence[float]) -> Score | None:
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Score(split=split, metric=metric, mean=statistics.fmean(values), std=std, n=len(values))


def reads_of_test(prepare: Prepare, known: Iterable[Scored]) -> Reads:
    """How often these finished evaluations scored the test split of a task, whatever the set."""
    reading = [each for each in known if "test" in each.config.splits]
    reading = [each for each in reading if any(same(one, prepare) for one in inputs(each.config))]
    students = sum(len({run.initialisation for run in each.runs}) for each in reading)
    return Reads(evaluations=len(reading), students=students)


def beside(distill: Distill, known: Iterable[Scored]) -> tuple[str, ...]:
    """What majority, real sentences and full data score on the same splits and encoder, in sentences.

    Runs of all seeds are pooled; ± is their sample standard deviation.
    """
    metric = distill.source.task.metric
    members: dict[str, list[Scored]] = {}
    sets: dict[str, set[tuple[int, ...]]] = {}
    for each in known:
        row, source = row_of(each.config), each.config.source
        if row.kind == "ddal" or same(source, distill) or not same(each.config.prepared, distill.source):
            continue
        name = ", ".join(part for part in (row.method, row.budget, recipe(each.config)) if part)
        members.setdefault(name, []).append(each)
        sets.setdefault(name, set()).add(source.seeds if source.is_drawn else ())
    return tuple(
        f"{name}: {_in_words(values)}, of {len(sets[name])} set{'' if len(sets[name]) == 1 else 's'})"
        for name, found in members.items()
        if (values := values_of(found, "test", metric))
    )


def transfers(distill: Distill, known: Iterable[Scored]) -> tuple[str, ...]:
    """What students of other encoders scored that learned from this set's text, as :func:`beside` says it."""
    metric = distill.source.task.metric
    members: dict[str, list[Scored]] = {}
    for each in known:
        if each.config.data is not None and same(each.config.source, distill):
            asked = each.config.data.task.name if each.config.asks_part else each.config.data.model.name
            asked += " (learned for, too)" if any(same(one, each.config.data) for one in distill.others) else ""
            members.setdefault(f"{asked}, {recipe(each.config)}", []).append(each)
    scored = {name: values_of(found, "test", metric) for name, found in members.items()}
    return tuple(f"{name}: {_in_words(values)})" for name, values in scored.items() if values)


def _in_words(values: Sequence[float]) -> str:
    """Mean, deviation and number, with the bracket open for what else there is to say."""
    deviation = f" ± {percent(statistics.stdev(values))}" if len(values) > 1 else ""
    return f"{percent(statistics.fmean(values))}{deviation} (n {len(values)}"


def percent(value: float) -> str:
    """A share to one digit."""
    return f"{100 * value:.1f}"


def same(a: Distill | Prepare, b: Distill | Prepare) -> bool:
    """Whether two configs are of one cell."""
    return bool(canonical(a) == canonical(b))
