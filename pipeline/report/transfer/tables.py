"""The transfer matrix as a table per task (Markdown, LaTeX), as one long CSV, and as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import Experiment
from pipeline.report.collect import Collected
from pipeline.report.layout import Column
from pipeline.report.notes import UNKNOWN
from pipeline.report.render import latex, markdown
from pipeline.report.tables import METRIC_NAMES, Table, spread
from pipeline.report.transfer.figure import draw
from pipeline.report.transfer.matrix import OF_FULL, Line, Matrix, matrices
from pipeline.store.atomic import write_text

READ = (
    "Rows: sets and the encoder they were made with; columns: the encoder whose fresh students learned from their "
    "text, by its own tokens, and were scored.",
    "Entries: mean ± sample standard deviation in percent (retention); a / b after ±: over initialisations within a "
    "set / between sets (0.0 where that component is estimated negative); n = sets × initialisations. Without ± it is "
    "a single run.",
)
SETS = (
    "± of a retention: sample standard deviation over sets, or over the initialisations of a single set beside full "
    "data, whose own deviation is not in it; chance is not subtracted."
)

SEEN = (
    "[seen]: the sets were learned for students of this encoder, too; without it, and but for the encoder that they "
    "were made with, no student of the column had a part in them."
)


def write_transfer(experiment: Experiment, collected: Collected, stem: Path) -> tuple[str, tuple[Path, ...]]:
    """Writes ``<stem>.transfer.*``; nothing where no set is learned from by another encoder (``evaluate.data``).

    ``csv`` has a line per set and column, ``md`` and ``tex`` a table per task, ``png`` and ``pdf`` a panel per task.

    Returns:
        The tables as Markdown, and the files.

    """
    found = matrices(experiment, collected)
    if not found:
        return "", ()
    tables = [matrix_table(experiment.name, matrix) for matrix in found]
    stem = stem.with_name(f"{stem.name}.transfer")
    of = {suffix: stem.with_name(f"{stem.name}.{suffix}") for suffix in ("csv", "md", "tex")}
    shown = "\n".join(markdown(table) for table in tables)
    write_text(of["csv"], long_form(found).to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    write_text(of["md"], shown)
    write_text(of["tex"], "\n".join(latex(table) for table in tables))
    return shown, (*of.values(), *draw(found, f"{experiment.name}: transfer", stem))


def matrix_table(name: str, matrix: Matrix) -> Table:
    """A task's matrix: one line per set, one column per encoder."""
    shown: dict[str, list[str]] = {
        "set": [line.label for line in matrix.lines],
        "made with": [line.source for line in matrix.lines],
    }
    for column in matrix.columns:
        shown[f"{column.model}: {METRIC_NAMES[column.metric]}"] = [
            _entry(matrix, line, column) for line in matrix.lines
        ]
    shown["n"] = [_sizes(matrix, line) for line in matrix.lines]
    title = f"{name}: transfer to other encoders, {matrix.task}"
    return Table(f"transfer-{matrix.task}", title, pd.DataFrame(shown), caption=_caption(matrix))


def long_form(found: Sequence[Matrix]) -> pd.DataFrame:
    """A line per (task, set, source, students): fractions; ``chosen`` are its hyper-parameters, where some differ."""
    return pd.DataFrame(
        _record(matrix, line, column)
        for matrix in found
        for line in matrix.lines
        for column in matrix.columns
        if column in line.entries
    )


def _record(matrix: Matrix, line: Line, column: Column) -> dict[str, Any]:
    entry = line.entries[column]
    sample, kept = entry.headline, matrix.retention(line, column)
    place: dict[str, Any] = {"task": matrix.task, "set": line.label, "made_with": line.source, "students": column.model}
    place |= {"seen": line.saw(column)} if matrix.sees else {}
    place |= {"split": column.split, "metric": column.metric, "state": "done" if sample else entry.state}
    if sample is None:
        return place
    one = sample.estimate
    scores = {"mean": one.mean, "std": one.std, "std_init": one.std_init, "std_seed": one.std_seed}
    runs = {"n": one.n, "n_init": one.n_init, "n_seed": one.n_seed, "ci_low": one.low, "ci_high": one.high}
    share = {} if kept is None else {"retention": kept.share, "retention_std": kept.std, "of": kept.of}
    full = matrix.full(column)
    of_full = None if full is None else full.estimate.mean
    return {**place, **scores, **runs, **share, "full_data": of_full, "chosen": entry.choice()}


def retention(matrix: Matrix, line: Line, column: Column) -> str:
    """Such as ``81.3 ± 2.0 %``; empty where it is not known, and for the set's own encoder where that is the 100 %."""
    kept = matrix.retention(line, column)
    if kept is None or (kept.of != OF_FULL and column == line.own):
        return ""
    return f"{100 * kept.share:.1f}" + ("" if kept.std is None else f" ± {100 * kept.std:.1f}") + " %"


def _entry(matrix: Matrix, line: Line, column: Column) -> str:
    entry = line.entries.get(column)
    if entry is None:
        return "–"
    if entry.headline is None:
        return entry.state if entry.chosen is None else f"no {column.split} scores"
    share = retention(matrix, line, column)
    seen = " [seen]" if line.saw(column) else ""
    return f"{100 * entry.headline.estimate.mean:.1f}{spread(entry.headline)}" + (f" ({share})" if share else "") + seen


def _sizes(matrix: Matrix, line: Line) -> str:
    """Of all columns, or, where these differ, of one after the other."""
    entries = [line.entries.get(column) for column in matrix.columns]
    sizes = ["–" if entry is None or entry.headline is None else entry.headline.size for entry in entries]
    return sizes[0] if len(set(sizes)) == 1 else " / ".join(sizes)


def _caption(matrix: Matrix) -> tuple[str, ...]:
    samples = {column: matrix.full(column) for column in matrix.columns}
    full = [f"{c.model} ({100 * one.estimate.mean:.1f}, n = {one.size})" for c, one in samples.items() if one]
    others = [column.model for column, one in samples.items() if one is None]
    entries = [(line, entry) for line in matrix.lines for entry in line.entries.values() if entry.chosen is not None]
    chosen = [line.label for line, entry in entries if entry.planned > 1]
    leaky = [line.label for line in matrix.lines if line.row.on_test]
    foreign = [line.label for line, entry in entries if entry.chosen is not None and entry.chosen.is_unknown]
    recipes = dict.fromkeys(entry.chosen.recipe for _, entry in entries if entry.chosen is not None)
    scored = {f"{c.split} {METRIC_NAMES[c.metric]}, {_rows(matrix, c)} rows" for c in matrix.columns}
    sentences = (
        *READ,
        f"Retention: share of the score of the column's encoder on all training rows: {', '.join(full)}."
        if full
        else "",
        f"Retention of {', '.join(others)}: share of the same sets' score on the encoder they were made with; the grid "
        "has no finished full data of these encoders."
        if others
        else "",
        SETS,
        SEEN if matrix.sees else "",
        f"Scored: {'; '.join(sorted(scored))}." + (f" Students: {'; '.join(recipes)}." if recipes else ""),
        f"Hyper-parameters chosen on dev, for each column by its own students: {', '.join(dict.fromkeys(chosen))}."
        if chosen
        else "",
        f"SELECTED ON THE TEST SPLIT, so optimistic: {'; '.join(leaky)}." if leaky else "",
        f"{UNKNOWN} {'; '.join(dict.fromkeys(foreign))}." if foreign else "",
    )
    return tuple(sentence for sentence in sentences if sentence)


def _rows(matrix: Matrix, column: Column) -> str:
    size = matrix.collected.size(column, column.split)
    return "?" if size is None else f"{size:,}"
