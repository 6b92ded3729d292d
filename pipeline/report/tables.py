"""The paper's tables with our numbers: 1 (tasks), 2 (methods x tasks), 3 (steps and shots x tasks)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.config import Experiment, Prepare
from pipeline.report import imbalance, notes, paper
from pipeline.report.collect import Collected, Entry, Sample
from pipeline.report.layout import Column
from pipeline.report.row import Row
from pipeline.report.statistics.comparisons import compare
from pipeline.report.statistics.verdicts import Verdicts
from pipeline.report.words.composed import published_split

METRIC_NAMES = {
    "accuracy": "accuracy %",
    "balanced_accuracy": "balanced accuracy %",
    "macro_f1": "macro F1 %",
    "f1": "F1 %",
    "mcc": "MCC × 100",
    "accuracy_f1": "mean of accuracy and F1 %",
}
_TITLES = 60  # characters, above which a heading is wider than what stands below it
TITLES = {
    "table2": "methods and tasks (laid out as the paper's Table 2)",
    "table3": "steps and shots (laid out as the paper's Table 3)",
}


@dataclass(frozen=True)
class Table:
    """What is shown: a frame of text, the positions (row, column) of entries that are best by test, sentences below.

    ``tests`` has one line per comparison, where the table has any; cells without results share lines.
    """

    name: str
    title: str
    frame: pd.DataFrame
    best: frozenset[tuple[int, int]] = frozenset()
    caption: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    cells_unfinished: int = 0
    tests: pd.DataFrame | None = None


def task_table(experiment: Experiment, collected: Collected) -> Table:
    """Table 1: metric, classes, rows of the three splits, where dev and test come from."""
    tasks: dict[str, Column] = {}
    for column in sorted(collected.layout.columns, key=lambda c: not collected.manifests[c]):
        tasks.setdefault(column.task, column)
    records = []
    for column in (tasks[name] for name in dict.fromkeys(c.task for c in collected.layout.columns)):
        counts = collected.manifests[column].get("class_counts", {}).get(column.split) or []
        whole = collected.manifests[column].get("sizes", {})
        sizes = {split: _count(whole.get(split)) for split in ("train", "dev", "test")}
        records.append(
            {"task": column.task, "metric": METRIC_NAMES[column.metric], "classes": _count(collected.classes(column))}
            | sizes
            | {f"largest class % of {column.split}": f"{100 * max(counts) / sum(counts):.1f}" if sum(counts) else "?"}
            | {"dev is": _origin(column.prepares[0], "dev"), "test is": _origin(column.prepares[0], "test")}
        )
    frame = pd.DataFrame(records).fillna("")
    return Table("table1", f"{experiment.name}: tasks (laid out as the paper's Table 1)", frame)


def results_table(experiment: Experiment, collected: Collected) -> Table:
    """Table 2 or 3, as ``report.table`` says, with the tests between its rows.

    Raises:
        InputError: ``report.compare`` names a row that is not there.

    """
    rows, columns, name = collected.layout.rows, collected.layout.columns, experiment.report.table
    verdicts = Verdicts(collected, compare(experiment.report.compare, collected))
    published = paper.read(name) if experiment.report.paper else None
    first = "method" if name == "table2" else "setting"
    shown: dict[str, list[str]] = {first: [collected.layout.labels[row] for row in rows]}
    best: set[tuple[int, int]] = set()
    for column in columns:
        best |= {(rows.index(row), len(shown)) for row in [verdicts.best(column)] if row is not None}
        entries = [_entry(collected, row, column) for row in rows]
        marks = [verdicts.mark(row, column) for row in rows]
        shown[_heading(collected, column)] = [f"{e} {m}" if m else e for e, m in zip(entries, marks, strict=True)]
        if published is not None and published.has(column):
            shown[f"{column.title}: {paper.HEADING}"] = [published.entry(row, column) for row in rows]
        for metric in imbalance.beside(collected, column):
            shown[f"{column.title}: {METRIC_NAMES[metric]}"] = [_entry(collected, r, column, metric) for r in rows]
    where = _order(columns) if len(columns) > 1 else ""
    shown["n (sets × initialisations)"] = [_sizes(collected, row) for row in rows]
    shown[f"% of full data{where}"] = [_joined(collected, row, lambda e: _share(collected, e)) for row in rows]
    shown[f"distillation s{where}"] = [_joined(collected, row, _distill_seconds) for row in rows]
    shown[f"training s{where}"] = [_joined(collected, row, _train_seconds) for row in rows]
    shows_paper = published is not None and any(published.has(column) for column in columns)
    return Table(
        name=name,
        title=f"{experiment.name}: {TITLES[name]}",
        frame=pd.DataFrame(shown),
        best=frozenset(best),
        caption=(*notes.caption(collected, shows_paper), *imbalance.caption(collected), *verdicts.caption()),
        differences=verdicts.sentences(),
        unfinished=notes.unfinished(collected.problems),
        cells_unfinished=len(collected.problems),
        tests=verdicts.frame(),
    )


def spread(sample: Sample) -> str:
    """What stands after the mean: the deviation of all runs, or of initialisations and of sets where both are known."""
    found = sample.estimate
    if found.std_seed is None or found.std_init is None:
        return "" if found.std is None else f" ± {100 * found.std:.1f}"
    return f" ± {100 * found.std_init:.1f} / {100 * found.std_seed:.1f}"


def long_form(collected: Collected) -> pd.DataFrame:
    """One row per (task, model, row, metric, split) of what was chosen; fractions, nats and seconds as measured.

    ``std`` is over all runs; ``std_init`` and ``std_seed`` are its components, where they can be told apart; the
    interval's variance is that of ``ci_over``. ``seconds`` are those of all sets and trainings together.
    """
    records = []
    for (row, column), entry in collected.entries.items():
        if entry.chosen is None:
            continue
        for metric, split in sorted(set(zip(entry.chosen.runs["metric"], entry.chosen.runs["split"], strict=True))):
            sample = entry.chosen.sample(metric, split)
            assert sample is not None
            records.append(
                {"task": column.task, "model": column.model, "row": collected.layout.labels[row]}
                | {"metric": metric, "split": split}
                | _numbers(sample)
                | {"n_split": collected.size(column, split), "shots": row.shots, "steps": row.steps, "data": row.data}
                | {"selection": entry.selection, "chosen": entry.choice(), "alternatives": entry.planned}
                | {"distill_seconds": entry.chosen.distill_seconds, "train_seconds": entry.chosen.train_seconds}
                | {"seconds": entry.chosen.seconds}
            )
    return pd.DataFrame(records, columns=_LONG).astype(dict.fromkeys(_COUNTS, "Int64"))


_LONG = [
    *("task", "model", "row", "metric", "split", "mean", "std", "std_init", "std_seed", "n", "n_init", "n_seed"),
    *("ci_low", "ci_high", "ci_over", "n_split", "shots", "steps", "data", "selection", "chosen", "alternatives"),
    *("distill_seconds", "train_seconds", "seconds"),
]
_COUNTS = ("n", "n_init", "n_seed", "n_split", "shots", "steps", "alternatives")


def _numbers(sample: Sample) -> dict[str, float | str | None]:
    found = sample.estimate
    stds = {"std": found.std, "std_init": found.std_init, "std_seed": found.std_seed}
    runs = {"n": found.n, "n_init": found.n_init, "n_seed": found.n_seed}
    return {"mean": found.mean, **stds, **runs, "ci_low": found.low, "ci_high": found.high, "ci_over": found.source}


def _heading(collected: Collected, column: Column) -> str:
    size = _count(collected.size(column, column.split))
    return f"{column.title}: {METRIC_NAMES[column.metric]}, {size} {column.split} rows"


def _order(columns: Sequence[Column]) -> str:
    """What the numbers that are joined by strokes belong to, in a few words."""
    titles = " / ".join(column.title for column in columns)
    return f" ({titles})" if len(titles) <= _TITLES else " (in the order of the columns)"


def _entry(collected: Collected, row: Row, column: Column, metric: str | None = None) -> str:
    """By the task's own metric, or another one."""
    entry = collected.entries.get((row, column))
    if entry is None:
        return "–"
    sample = None if entry.chosen is None else entry.chosen.sample(metric or column.metric, column.split)
    if sample is None:
        return entry.state if entry.chosen is None else f"no {column.split} scores"
    text = f"{100 * sample.estimate.mean:.1f}{spread(sample)}"
    return text if len(_distinct_sizes(collected, row)) == 1 else f"{text} (n = {sample.size})"


def _distinct_sizes(collected: Collected, row: Row) -> list[str]:
    samples = [collected.sample(row, column) for column in collected.layout.columns]
    return list(dict.fromkeys(sample.size for sample in samples if sample is not None))


def _sizes(collected: Collected, row: Row) -> str:
    sizes = _distinct_sizes(collected, row)
    return sizes[0] if len(sizes) == 1 else "see entries" if sizes else "0"


def _joined(collected: Collected, row: Row, text: Callable[[Entry], str]) -> str:
    entries = [collected.entries.get((row, column)) for column in collected.layout.columns]
    texts = ["–" if entry is None or entry.headline is None else text(entry) for entry in entries]
    return " / ".join(texts) if set(texts) != {"–"} else "–"


def _share(collected: Collected, entry: Entry) -> str:
    full, sample = collected.reference("full", entry.column, entry.row.network), entry.headline
    whole = 0.0 if full is None else full.estimate.mean
    return f"{100 * sample.estimate.mean / whole:.1f}" if sample is not None and whole > 0 else "–"


def _distill_seconds(entry: Entry) -> str:
    seconds = None if entry.chosen is None else entry.chosen.distill_seconds
    return "–" if seconds is None else _seconds(seconds)


def _train_seconds(entry: Entry) -> str:
    return "–" if entry.chosen is None else _seconds(entry.chosen.train_seconds)


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.1f}" if seconds >= 0.1 else f"{seconds:.2g}"


def _count(size: int | None) -> str:
    return "?" if size is None else f"{size:,}"


def _origin(prepare: Prepare, split: str) -> str:
    published = published_split(prepare, "dev" if split == "dev" else "test")
    if published is not None:
        return "the source's own file" if prepare.task.source.kind == "files" else f"the source's '{published}'"
    size = prepare.dev if split == "dev" else prepare.test
    if size is None:
        return "none"
    return "carved from train: " + (f"{100 * size:g} %" if size < 1 else f"{size:g} rows") + f", seed {prepare.seed}"
