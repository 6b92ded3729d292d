"""Our numbers beside the paper's: differences where the encoder is the paper's, shares of full data elsewhere."""

from __future__ import annotations

import pandas as pd

from pipeline.config import Experiment
from pipeline.report import paper
from pipeline.report.collect import Collected
from pipeline.report.layout import Column
from pipeline.report.row import Row
from pipeline.report.tables import METRIC_NAMES, Table, spread
from pipeline.report.words.composed import published_split

OURS = (
    "Ours: mean ± sample standard deviation, in percent (n = sets × initialisations); two deviations: over "
    "initialisations / over sets."
)
HOW = (
    f"{OURS} Paper: BERT-base, 100 initialisations of one set, ± their population standard "
    "deviation; checkpoints and hyper-parameters were selected on the reported split, ours are not unless the row says "
    "so, so that the paper's numbers are optimistic."
)
DIFFERENCE = (
    "Difference: our mean − the paper's, in points, where the encoder is the paper's. It is not tested: the paper's "
    "runs are not published."
)
SHARE = (
    "% of full: a mean as percentage of the same encoder's own full-data score, ours and then the paper's; where the "
    "encoder is another one, only these can be compared."
)


def shares(collected: Collected, reference: Collected | None = None) -> pd.DataFrame:
    """One line per row and column of a layout; numbers in percent, None where there are none.

    Columns: row, column, mean, paper, full (of our encoder), paper_full, difference (only for the paper's encoder),
    share and paper_share (of full data).

    Args:
        collected: of the experiment.
        reference: of another experiment, whose full data stands in where this one has none.

    """
    records = []
    published = {name: paper.read(name) for name in ("table2", "table3")}
    for column in collected.layout.columns:
        full, paper_full = _full(column, collected, reference), published["table2"].full(column)
        for row in collected.layout.rows:
            sample = collected.sample(row, column)
            ours = None if sample is None else 100 * sample.estimate.mean
            found = published["table2"].number(row, column) or published["table3"].number(row, column)
            theirs = None if found is None else found[0]
            both = ours is not None and theirs is not None and paper.has_encoder(column)
            records.append(
                {"row": row, "column": column, "mean": ours, "paper": theirs, "full": full, "paper_full": paper_full}
                | {"difference": ours - theirs if both else None}  # type: ignore[operator]
                | {"share": _share(ours, full), "paper_share": _share(theirs, paper_full)}
            )
    return pd.DataFrame(records).astype(object).where(lambda frame: frame.notna(), None)


def table(experiment: Experiment, collected: Collected, reference: Collected | None = None) -> Table:
    """The paper's table with ours, theirs and how they compare, for every task."""
    frame = shares(collected, reference)
    rows, columns = collected.layout.rows, collected.layout.columns
    shown: dict[str, list[str]] = {"": [collected.layout.labels[row] for row in rows]}
    for column in columns:
        lines = [line for _, line in frame[frame["column"] == column].iterrows()]
        shown[f"{column.title}: {METRIC_NAMES[column.metric]}"] = [_ours(collected, row, column) for row in rows]
        ours, theirs = ([_plain(line[name]) for line in lines] for name in ("share", "paper_share"))
        if not _is_known(column):
            shown[f"{column.title}: % of full"] = ours
            continue
        shown[f"{column.title}: {paper.HEADING}"] = [_paper(row, column) for row in rows]
        if paper.has_encoder(column):
            shown[f"{column.title}: difference, points"] = [_signed(line["difference"]) for line in lines]
        else:
            pairs = zip(ours, theirs, strict=True)
            heading = f"{column.title}: % of full, ours / paper"
            shown[heading] = ["–" if pair == ("–", "–") else " / ".join(pair) for pair in pairs]
    known = [column for column in columns if _is_known(column)]
    unknown = ", ".join(column.title for column in columns if column not in known)
    same = [paper.has_encoder(column) for column in known]
    caption = (
        HOW if known else OURS,
        DIFFERENCE if any(same) else "",
        SHARE if not all(same) else "",
        f"The paper has no numbers for {unknown} (task and metric)." if unknown else "",
        _best(frame, collected),
        *sizes(collected),
    )
    title = f"{experiment.name}: beside the paper's numbers"
    return Table("paper", title, pd.DataFrame(shown), caption=tuple(filter(None, caption)))


def sizes(collected: Collected) -> tuple[str, ...]:
    """Rows of the reported split, and what share of the published training rows was there to learn from."""
    sentences = []
    for column in collected.layout.columns:
        size = collected.size(column, column.split)
        text = f"{column.title}: n = {'?' if size is None else f'{size:,}'} {column.split} rows"
        sentences.append("; ".join(filter(None, (text, sample_of_train(collected, column)))) + ".")
    return tuple(sentences)


def sample_of_train(collected: Collected, column: Column) -> str:
    """That the training rows are a sample of the published ones, and how large; empty where they are all there."""
    prepare = column.prepares[0]
    published = paper.TRAIN_ROWS.get(prepare.task.name)
    carved = [name for name in ("dev", "test") if published_split(prepare, name) is None]
    parts = [collected.size(column, name) for name in ("train", *carved)]
    there = sum(part for part in parts if part is not None)
    if published is None or None in parts or there >= published:
        return ""
    return f"a SAMPLE of train: {there:,} of {published:,} rows ({100 * there / published:.1f} %)"


def _is_known(column: Column) -> bool:
    return paper.read("table2").has(column)


def _full(column: Column, collected: Collected, reference: Collected | None) -> float | None:
    """Full data of the same splits and encoder, in percent."""
    sample = collected.reference("full", column)
    if sample is None and reference is not None:
        twins = [other for other in reference.layout.columns if other.key == column.key]
        sample = next((s for s in (reference.reference("full", twin) for twin in twins) if s is not None), None)
    return None if sample is None else 100 * sample.estimate.mean


def _best(frame: pd.DataFrame, collected: Collected) -> str:
    """The best distilled set of each task as percentage of full data, ours and the paper's."""
    parts = []
    for column in collected.layout.columns:
        lines = frame[
            (frame["column"] == column) & frame["row"].map(lambda row: row.kind == "ddal" and not row.on_test)
        ]
        ours, theirs = (lines[name].dropna() for name in ("share", "paper_share"))
        if len(ours) and len(theirs):
            parts.append(f"{column.title} {max(ours):.1f} / {max(theirs):.1f}")
    said = "Best distilled set as % of full data, ours / paper (both picked by the reported score): "
    return f"{said}{'; '.join(parts)}." if parts else ""


def _ours(collected: Collected, row: Row, column: Column) -> str:
    entry, sample = collected.entries.get((row, column)), collected.sample(row, column)
    if sample is None:
        return "–" if entry is None else entry.state
    return f"{100 * sample.estimate.mean:.1f}{spread(sample)} (n = {sample.size})"


def _paper(row: Row, column: Column) -> str:
    return paper.read("table2").entry(row, column) or paper.read("table3").entry(row, column) or "–"


def _share(mean: float | None, full: float | None) -> float | None:
    return 100 * mean / full if mean is not None and full else None


def _plain(number: float | None) -> str:
    return "–" if number is None else f"{number:.1f}"


def _signed(number: float | None) -> str:
    return "–" if number is None else f"{number:+.1f}"
