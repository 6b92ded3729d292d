"""Finished evaluations of a store, or of a committed archive, as the scores and the history of one set."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.config import (
    Composed,
    Distill,
    Evaluate,
    Generated,
    Imported,
    Learned,
    Prepare,
    Project,
    RandomReal,
    SmallSet,
    inputs,
)
from pipeline.config.schema import canonical
from pipeline.errors import InputError
from pipeline.report.alternatives import hyper_parameters, searched
from pipeline.report.archive import Archive
from pipeline.report.card.facts import Evaluation, Reads, Score
from pipeline.report.words.cells import recipe
from pipeline.report.words.language import kept_state
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
    mine = [each for each in known if _same(each.config.source, distill) and each.config.data is None]
    protocols = {_way(each.config): each.config for each in mine}
    wanted = dict.fromkeys((distill.source.task.metric, *SHOWN))
    found = []
    for name, config in protocols.items():
        members = [each for each in mine if _way(each.config) == name]
        scores = [
            score
            for split in ("dev", "test")
            for metric in wanted
            if (score := _score(split, metric, _values(members, split, metric)))
        ]
        seeds = tuple(sorted({each.config.seed for each in members}))
        how = recipe(config) if config.prefix is None else f"the first {config.prefix} per class; {recipe(config)}"
        scored = {"how": how, "seeds": seeds, "scores": tuple(scores)}
        found.append(Evaluation(protocol=config.protocol, prefix=config.prefix, **scored))
    return tuple(found)


def _values(members: Iterable[Scored], split: str, metric: str) -> list[float]:
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
    reading = [each for each in reading if any(_same(one, prepare) for one in inputs(each.config))]
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
        if row.kind == "ddal" or _same(source, distill) or not _same(each.config.prepared, distill.source):
            continue
        name = ", ".join(part for part in (row.method, row.budget, recipe(each.config)) if part)
        members.setdefault(name, []).append(each)
        sets.setdefault(name, set()).add(source.seeds if source.is_drawn else ())
    return tuple(
        f"{name}: {_in_words(values)}, of {len(sets[name])} set{'' if len(sets[name]) == 1 else 's'})"
        for name, found in members.items()
        if (values := _values(found, "test", metric))
    )


def transfers(distill: Distill, known: Iterable[Scored]) -> tuple[str, ...]:
    """What students of other encoders scored that learned from this set's text, as :func:`beside` says it."""
    metric = distill.source.task.metric
    members: dict[str, list[Scored]] = {}
    for each in known:
        if each.config.data is not None and _same(each.config.source, distill):
            asked = each.config.data.task.name if each.config.asks_part else each.config.data.model.name
            asked += " (learned for, too)" if any(_same(one, each.config.data) for one in distill.others) else ""
            members.setdefault(f"{asked}, {recipe(each.config)}", []).append(each)
    scored = {name: _values(found, "test", metric) for name, found in members.items()}
    return tuple(f"{name}: {_in_words(values)})" for name, values in scored.items() if values)


def _in_words(values: Sequence[float]) -> str:
    """Mean, deviation and number, with the bracket open for what else there is to say."""
    deviation = f" ± {_percent(statistics.stdev(values))}" if len(values) > 1 else ""
    return f"{_percent(statistics.fmean(values))}{deviation} (n {len(values)}"


def history(distill: Distill, about: dict[str, Any], known: Sequence[Scored]) -> tuple[str, ...]:
    """How the set came to be the one that is released, in sentences: checkpoint, settings, seeds."""
    return (*_checkpoint(distill, about), *_settings(distill, known), *_seeds(distill, known))


def _checkpoint(distill: Distill, about: dict[str, Any]) -> list[str]:
    """What selected the set, or each of its parts, by what stage 2 wrote of it."""
    method = distill.method
    if isinstance(method, Generated):
        return [f"The generator's state: {kept_state(distill)}. No score of a student selected anything."]
    if isinstance(method, Imported):
        return ["What selected it, and whether that was the test split, is not known: it was published by others."]
    if isinstance(method, Composed):
        if "composed" not in about:  # a part that is itself composed, as files had it before they told of its own parts
            return ["What selected its parts is not recorded with the set."]
        return [
            f"Part {number}, by `{facts['method']}` of {facts['task']} (seed {facts['seed']}): {sentence}"
            for number, (part, facts) in enumerate(zip(method.parts, about["composed"], strict=True), 1)
            for sentence in _checkpoint(part.of, facts)
        ]
    if isinstance(method, Learned | Project):
        return [_selected(about.get("selection", {}))]
    return ["No score on dev or test selected anything: the rows follow from the method, train and the seed."]


def _selected(found: dict[str, Any]) -> str:
    """How the outer loop's checkpoint was selected."""
    if found.get("split", "none") == "none":
        return "Checkpoint: the last outer step, selected by nothing."
    students, rows = found["initialisations"], found["examples"] or "all"
    words = (
        f"Checkpoint: outer step {found['step']}, by {found['split']} {found['by']} (loss {found['loss']:.4f}, "
        f"accuracy {100 * found['accuracy']:.1f} %) of {students} fresh students on {rows} {found['split']} rows."
    )
    if found["split"] == "test":
        words += " THE TEST SPLIT SELECTED, as in the published protocol: its scores are optimistic."
    return words


def _settings(distill: Distill, known: Sequence[Scored]) -> list[str]:
    """Other settings of the same method and budget that were tried where the card was written."""
    if isinstance(distill.method, Imported | RandomReal) or not isinstance(distill.method, SmallSet):
        return []
    mine = [each.config for each in known if _same(each.config.source, distill) and each.config.data is None]
    if not mine:
        return ["Hyper-parameters: how they were chosen is not recorded with the set."]
    own = _of_set(mine[0])
    row = row_of(mine[0])
    alike = [
        each.config for each in known if _same(each.config.source.source, distill.source) and row_of(each.config) == row
    ]
    tried = {repr(_of_set(config)): config for config in alike}
    others = [config for name, config in tried.items() if name != repr(own)]
    if not others:
        return [
            "Hyper-parameters: no other setting of this method and budget was evaluated where the card was written; "
            "whether others were tried elsewhere is not recorded with the set."
        ]
    axes = [key for key in searched([mine[0], *others]) if not key.startswith("evaluate.")]
    on_dev = {repr(_of_set(config)) for config in alike if "dev" in config.splits}
    found = [
        f"Hyper-parameters: one of {len(tried)} settings that were evaluated where the card was written, which differ "
        f"in {', '.join(axes)}; {len(on_dev)} of them have dev scores to choose by."
    ]
    if any("dev" in config.splits and _same(config.source, distill) for config in alike):
        found.append(
            "THIS VERY SET is one of those whose dev scores were compared: where its settings were chosen by them, it "
            "was chosen, too, and luck is part of its score; what these settings give is what other seeds' sets score."
        )
    return found


def _seeds(distill: Distill, known: Sequence[Scored]) -> list[str]:
    """What sets of other seeds scored, by the same settings and protocols: a released seed may be a chosen one."""
    if not distill.is_drawn:
        return ["The set does not depend on a seed."]
    metric = distill.source.task.metric
    members: dict[str, dict[tuple[int, ...], list[Scored]]] = {}
    for each in known:
        source = each.config.source
        of_whole = each.config.data is None and each.config.prefix is None
        if of_whole and _same(_unseeded(source), _unseeded(distill)):
            members.setdefault(recipe(each.config), {}).setdefault(source.seeds, []).append(each)
    means: dict[str, dict[tuple[int, ...], float]] = {}
    for how, of_sets in members.items():
        for seeds, evaluations in of_sets.items():
            if values := _values(evaluations, "test", metric):
                means.setdefault(how, {})[seeds] = statistics.fmean(values)
    found = []
    for how, by_seed in means.items():
        if len(by_seed) > 1 and distill.seeds in by_seed:
            rank = 1 + sum(mean > by_seed[distill.seeds] for mean in by_seed.values())
            found.append(
                f"Seeds: {len(by_seed)} sets by the same settings have a mean test {metric} of "
                f"{_percent(statistics.fmean(by_seed.values()))} ± {_percent(statistics.stdev(by_seed.values()))} "
                f"(sample standard deviation between sets; {how}); this one, seed {distill.seed}, is number {rank}."
            )
    if not means:
        return ["Seeds: no set by these settings, of this seed or another, had test scores where the card was written."]
    return found or [
        f"Seeds: the only set by these settings that was evaluated where the card was written is this one, "
        f"seed {distill.seed}: what another distillation would give is not known."
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _of_set(config: Evaluate) -> dict[str, Any]:
    """The hyper-parameters that the set depends on."""
    return {key: value for key, value in hyper_parameters(config).items() if not key.startswith("evaluate.")}


def _unseeded(config: Distill) -> Distill:
    """The config with every seed of its chain at 0."""
    made = [_unseeded(one) for one in config.made_of]
    if isinstance(config.method, Composed):
        return config.model_copy(update={"seed": 0, "method": config.method.of(made)})
    return config.model_copy(update={"seed": 0, "parent": made[0] if made else None})


def _same(a: Distill | Prepare, b: Distill | Prepare) -> bool:
    return bool(canonical(a) == canonical(b))
