"""The sentences around a table: how to read it, what was selected on which split, differences, unfinished cells."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.problems import nearest
from pipeline.errors import InputError
from pipeline.report.collect import Collected, Entry, Problem, Sample
from pipeline.report.intervals import welch
from pipeline.report.layout import Column, Row
from pipeline.report.paper import HEADING

RUNS = (
    "Entries: mean ± sample standard deviation over n runs, in percent; n = sets × initialisations of each; "
    "without ± it is a single run."
)
PAPER = (
    f"Columns headed '{HEADING}' are the numbers printed by Maekawa et al. (ACL 2023), not ours: BERT-base, population "
    "standard deviation over 100 initialisations of one distilled set, checkpoint and hyper-parameters selected on the "
    "split that is reported."
)
SECONDS = "Distillation s: wall seconds of one set, all attempts together; training s: of one initialisation."
LABELS = "HL: hard labels; SL: soft (unrestricted) labels; AL: attention labels."
NOUNS = {"ddal": "distilled set", "random": "draw of real samples"}


def caption(collected: Collected, shows_paper: bool, marks_best: bool) -> tuple[str, ...]:
    """How to read the table and what was chosen on which split."""
    models = dict.fromkeys(column.model for column in collected.layout.columns)
    best = "Bold: the best small set of a column; full data and majority are references." if marks_best else ""
    sentences = [
        *_selected(collected),
        RUNS,
        LABELS if any(row.kind == "ddal" for row in collected.layout.rows) else "",
        best,
        *_searched(collected),
        _recipes(collected),
        *(_on_dev(column) for column in collected.layout.columns if column.split == "dev"),
        f"Encoder of our runs: {', '.join(models)}.",
        SECONDS,
        PAPER if shows_paper else "",
    ]
    return tuple(sentence for sentence in sentences if sentence)


def differences(compare: Sequence[tuple[str, ...]], collected: Collected) -> tuple[str, ...]:
    """One line per asked pair and column: difference in percent points, Welch interval, what it covers.

    A label without a budget stands for all rows of that method; rows of equal budgets are then paired.

    Raises:
        InputError: no row has such a label.

    """
    lines = []
    for first, second in compare:
        ours, theirs = (_rows(label, collected) for label in (first, second))
        pairs = [(a, b) for a in ours for b in theirs if len(ours) * len(theirs) == 1 or _same_budget(a, b)]
        lines += [_difference(a, b, column, collected) for column in collected.layout.columns for a, b in pairs]
        if not pairs:
            lines.append(f"{first} − {second}: no two rows have the same budget; name them in full in report.compare.")
    return tuple(lines)


def unfinished(problems: Sequence[Problem]) -> tuple[str, ...]:
    """One line per cell without results."""
    return tuple(
        f"{problem.slug}: stage {problem.stage} is {problem.state}"
        + (f": {' '.join(problem.reason.split())}" if problem.reason else "")
        for problem in problems
    )


def _selected(collected: Collected) -> list[str]:
    rows = [row for row in collected.layout.rows if row.kind == "ddal"]
    leaky = [collected.layout.labels[row] for row in rows if row.on_test]
    loud = [
        f"SELECTED ON THE TEST SPLIT, as the paper did: {'; '.join(leaky)}. Checkpoints and hyper-parameters were "
        "chosen by their score on the very split that is reported, so the numbers are optimistic."
    ]
    entries = [entry for (row, _), entry in collected.entries.items() if row.kind == "ddal" and not row.on_test]
    ways = " or ".join(sorted({entry.chosen.selection for entry in entries if entry.chosen is not None}))
    others = "other distilled sets" if leaky else "distilled sets"
    quiet = [f"Checkpoints of {others}: {ways}; the test split was used for no choice."] if ways else []
    return [*(loud if leaky else []), *quiet]


def _searched(collected: Collected) -> list[str]:
    """One line per row: the axes that were searched and what was chosen for each column."""
    found: dict[tuple[Row, tuple[str, ...]], list[str]] = {}
    for (row, column), entry in collected.entries.items():
        if entry.planned > 1:
            counts = f"best of {entry.finished}"
            counts += f" finished of {entry.planned}" if entry.finished < entry.planned else ""
            outcome = f"{entry.choice(short=True)} ({counts})" if entry.chosen else "none finished"
            found.setdefault((row, entry.axes), []).append(f"{column.title} {outcome}")
    labels = collected.layout.labels
    return [
        f"{labels[row]}: searched {', '.join(axes)}; chosen by the column's metric on "
        f"{'TEST' if row.on_test else 'dev'}: {'; '.join(outcomes)}."
        for (row, axes), outcomes in found.items()
    ]


def _recipes(collected: Collected) -> str:
    """How the students of each row learn; rows with equal recipes together."""
    rows: dict[str, list[str]] = {}
    for (row, _), entry in collected.entries.items():
        if entry.chosen is not None:
            rows.setdefault(entry.chosen.recipe, []).append(collected.layout.labels[row])
    parts = [f"{', '.join(dict.fromkeys(labels))}: {recipe}" for recipe, labels in rows.items()]
    return f"Students: {'; '.join(parts)}." if parts else ""


def _on_dev(column: Column) -> str:
    return (
        f"{column.title} is scored on DEV: no cell asks for the test split; "
        "write evaluate.splits: [dev, test] to report test. What was also chosen on dev is optimistic."
    )


def _rows(label: str, collected: Collected) -> list[Row]:
    labels = collected.layout.labels
    found = [row for row in labels if labels[row] == label] or [row for row in labels if row.method == label]
    if not found:
        allowed = list(dict.fromkeys([*labels.values(), *(row.method for row in labels)]))
        near = nearest(label, allowed)
        raise InputError(f"report.compare: no row is called '{label}'{near}; allowed: {'; '.join(allowed)}")
    return found


def _same_budget(a: Row, b: Row) -> bool:
    pairs = ((a.shots, b.shots), (a.steps, b.steps), (a.data or None, b.data or None))
    return all(x is None or y is None or x == y for x, y in pairs)


def _difference(a: Row, b: Row, column: Column, collected: Collected) -> str:
    names = [collected.layout.labels[row] for row in (a, b)]
    entries = [collected.entries.get((row, column)) for row in (a, b)]
    samples = [entry.headline if entry is not None else None for entry in entries]
    start = f"{column.title}: {names[0]} − {names[1]}"
    first, second = samples
    if first is None or second is None:
        absent = [f"{name} is {_state(e)}" for name, s, e in zip(names, samples, entries, strict=True) if s is None]
        return f"{start}: not computed, {' and '.join(absent)}."
    difference, low, high = welch(first.values, second.values)
    start += f" = {100 * difference:+.1f} points"
    ns = f"n = {len(first.values)} and {len(second.values)}"
    if low is None or high is None:
        single = [name for name, sample in zip(names, (first, second), strict=True) if len(sample.values) == 1]
        return f"{start} ({ns}); no interval: a single run of {' and of '.join(single)}."
    return (
        f"{start}, 95 % interval [{100 * low:.1f}, {100 * high:.1f}] (Welch, {ns}). It covers, "
        f"for {names[0]}, {_covers(a, first)}; for {names[1]}, {_covers(b, second)}."
    )


def _state(entry: Entry | None) -> str:
    if entry is None:
        return "not in the grid"
    return entry.state if entry.chosen is None else f"without {entry.column.split} scores"


def _covers(row: Row, sample: Sample) -> str:
    """What varies between the runs of a sample, so what an interval over them can speak of."""
    runs = len(sample.values)
    if not row.competes:
        return f"{runs} training runs"
    noun = NOUNS[row.kind]
    if sample.sets == 1:
        return f"{runs} initialisations of one {noun}, not what another {noun} would give"
    nouns = noun.replace("set", "sets").replace("draw", "draws")
    if runs == sample.sets:
        return f"{runs} {nouns}, each with one initialisation, the same for all"
    return (
        f"{runs} initialisations of {sample.sets} {nouns}, counted as independent runs "
        f"(too narrow where the {nouns} differ)"
    )
