"""The sentences around a table: how to read it, what was selected on which split, unfinished cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from pipeline.report.collect import Alternative, Collected
from pipeline.report.finished import Problem
from pipeline.report.layout import Column
from pipeline.report.paper import HEADING
from pipeline.report.row import Row
from pipeline.report.words.language import origin
from pipeline.report.words.prompts import left_out

RUNS = (
    "Entries: mean ± sample standard deviation, in percent; n = sets × initialisations of each; without ± it is a "
    "single run. Each set is learned from by initialisations of its own, so that what varies between sets holds both."
)
ONE_SET = "±, intervals and marks are over initialisations of one set, and do not hold what another set would give: {}."
MIXED = "± holds sets and initialisations together, one initialisation per set: {}."
NESTED = (
    "a / b after ±: over initialisations within a set (pooled) / between distillation seeds (the variance component of "
    "a one-way random-effects model, without what initialisations contribute): {}."
)
SHARED = "Sets {}, so that ±, intervals and marks do not hold what making it anew would give: {}."
FEW = "Sets {}, which ±, intervals and marks take as if each had one of its own: {}."
NEGATIVE = "The component between seeds was estimated negative, and is shown as 0: {}."
INTERVALS = (
    "95 % intervals of the means are in the figure and the CSV: Student's t over set means where there are two sets or "
    "more, which holds both sources of variance, otherwise over initialisations alone; test rows, and the choice of "
    "hyper-parameters, are taken as given."
)
PAPER = (
    f"Columns headed '{HEADING}' are the numbers printed by Maekawa et al. (ACL 2023), not ours: BERT-base, population "
    "standard deviation over 100 initialisations of one distilled set, checkpoint and hyper-parameters selected on the "
    "split that is reported."
)
SECONDS = "Distillation s: wall seconds of one set, all attempts together; training s: of one initialisation."
UNKNOWN = "Published by others, so that what selected them, and whether that was the test split, is not known:"
LABELS = "HL: hard labels; SL: soft (unrestricted) labels; AL: attention labels."


def caption(collected: Collected, shows_paper: bool) -> tuple[str, ...]:
    """How to read the table and what was chosen on which split."""
    sentences = [
        *_selected(collected),
        RUNS,
        *_spreads(collected),
        *_methods(collected),
        *_searched(collected),
        _grouped("Students", collected, lambda chosen: chosen.recipe),
        _grouped("Coresets are real sentences chosen by", collected, lambda chosen: chosen.rule),
        *(_on_dev(column) for column in collected.layout.columns if column.split == "dev"),
        *_models(collected),
        _grouped("Prompts that were too long", collected, _prompts),
        SECONDS,
        PAPER if shows_paper else "",
    ]
    return tuple(sentence for sentence in sentences if sentence)


def _methods(collected: Collected) -> list[str]:
    """Which method the rows are of, where their labels leave it out; and what its letters mean."""
    labels = collected.layout.labels
    unsaid = dict.fromkeys(row.method for row in labels if row.kind == "ddal" and row.method not in labels[row])
    found = [f"Learned sets: {' and '.join(unsaid)}."] if unsaid else []
    return [*found, LABELS] if any(re.search(r"\b[HSA]L\b", row.method) for row in labels) else found


def _prompts(chosen: Alternative) -> str | None:
    """What did not fit into prompts; ``None`` where all did, or where nothing is prompted."""
    split = chosen.cells[0].config.splits[-1]
    found = [chosen.sample(name, split) for name in ("prompt_examples", "prompt_dropped", "prompt_cut")]
    facts = [sample.estimate.mean for sample in found if sample is not None]
    return left_out(*facts) or None if len(facts) == len(found) else None


def _models(collected: Collected) -> list[str]:
    """Who learned, or answered, in each column."""
    found: dict[str, dict[str, None]] = {}
    for column in collected.layout.columns:
        kind = "Encoder" if column.prepares[0].model.head == "classifier" else "Language model"
        found.setdefault(kind, {})[column.model] = None
    return [f"{kind} of our runs: {', '.join(names)}." for kind, names in found.items()]


def _spreads(collected: Collected) -> list[str]:
    """What the ± of each entry is over, and what the intervals hold."""
    kinds: dict[str, dict[Row, list[str]]] = {ONE_SET: {}, MIXED: {}, NESTED: {}}
    shared: dict[str, dict[Row, list[str]]] = {}
    negative: dict[Row, list[str]] = {}
    shown: dict[Row, list[str]] = {}
    for (row, column), entry in collected.entries.items():
        if entry.headline is None or entry.chosen is None:
            continue
        shown.setdefault(row, []).append(column.title)
        found, one = entry.headline.estimate, entry.headline.estimate.n_seed == 1
        kind = ONE_SET if one else MIXED if found.std_seed is None else NESTED
        if entry.chosen.is_drawn or not one:
            kinds[kind].setdefault(row, []).append(column.title)
        if together := origin(entry.chosen.starts, found.n_seed):
            remark = FEW if len(entry.chosen.starts) > 1 else SHARED
            shared.setdefault(remark.format(together, "{}"), {}).setdefault(row, []).append(column.title)
        if found.negative:
            negative.setdefault(row, []).append(column.title)
    sentences = []
    for sentence, rows in (kinds | shared | {NEGATIVE: negative}).items():
        everywhere = [row for row, titles in sorted(rows.items()) if titles == shown[row]]
        names = _names(everywhere, list(shown), collected)
        names += [
            f"{collected.layout.labels[row]} ({', '.join(titles)})"
            for row, titles in sorted(rows.items())
            if titles != shown[row]
        ]
        sentences += [sentence.format(listed(names))] if names else []
    return [*sentences, *([INTERVALS] if shown else [])]


def _names(rows: Sequence[Row], shown: Sequence[Row], collected: Collected) -> list[str]:
    """Labels of rows; a method all of whose budgets are meant is named once."""
    labels = collected.layout.labels
    names: dict[str, None] = {}
    for row in rows:
        alike = [other for other in shown if other.method == row.method]
        whole = len(alike) > 1 and all(other in rows and labels[other].startswith(row.method) for other in alike)
        names[row.method if whole else labels[row]] = None
    return list(names)


def unfinished(problems: Sequence[Problem]) -> tuple[str, ...]:
    """A line per cell that failed; of those that wait or are missing a line per task, stage and state."""
    lines: dict[str, list[str]] = {}
    for problem in problems:
        where = f"stage {problem.stage} is {problem.state}"
        if problem.reason:
            lines[f"{problem.slug}: {where}: {' '.join(problem.reason.split())}"] = []
        else:
            lines.setdefault(f"{problem.slug.partition('.')[0]}: {where}", []).append(problem.slug)
    return tuple(f"{_counted(slugs)}: {line.partition(': ')[2]}" if slugs else line for line, slugs in lines.items())


def listed(names: Iterable[str]) -> str:
    """Names of rows in a sentence; in quotation marks where one of them has commas of its own."""
    names = list(names)
    return ", ".join(f"“{name}”" for name in names) if any("," in name for name in names) else ", ".join(names)


def _counted(slugs: Sequence[str]) -> str:
    task, more = slugs[0].partition(".")[0], len(slugs) - 1
    return slugs[0] + (f" and {more} more of {task}" if more else "")


def _selected(collected: Collected) -> list[str]:
    labels = collected.layout.labels
    leaky = [labels[row] for row in collected.layout.rows if row.on_test]
    loud = [
        f"SELECTED ON THE TEST SPLIT, as the paper did: {'; '.join(leaky)}. Checkpoints and hyper-parameters were "
        "chosen by their score on the very split that is reported, so the numbers are optimistic."
    ]
    chosen = [(row, entry.chosen) for (row, _), entry in collected.entries.items() if entry.chosen is not None]
    foreign = [row for row in collected.foreign if not row.on_test]
    own = [found for row, found in chosen if row.kind == "ddal" and not row.on_test and row not in foreign]
    unknown = f"{UNKNOWN} {listed(labels[row] for row in foreign)}."
    ways = " or ".join(sorted({found.selection for found in own}))
    others = "other distilled sets" if leaky or foreign else "distilled sets"
    quiet = [f"Checkpoints of {others}: {ways}; the test split was used for no choice."] if ways else []
    return [*(loud if leaky else []), *([unknown] if foreign else []), *quiet]


def _searched(collected: Collected) -> list[str]:
    """One line per row: the axes that were searched and what was chosen for each column."""
    found: dict[tuple[Row, tuple[str, ...]], list[str]] = {}
    for (row, column), entry in collected.entries.items():
        if entry.planned > 1:
            counts = f"best of {entry.finished}"
            counts += f" finished of {entry.planned}" if entry.finished < entry.planned else ""
            counts += f", the first of {entry.tied} that are equal" if entry.tied > 1 else ""
            outcome = f"{entry.choice(short=True)} ({counts})" if entry.chosen else "none finished"
            found.setdefault((row, entry.axes), []).append(f"{column.title} {outcome}")
    labels = collected.layout.labels
    settled = dict.fromkeys(entry.search for entry in collected.entries.values() if entry.search is not None)
    elsewhere = [f"Hyper-parameters of distilled sets: chosen on dev in the experiment {name}." for name in settled]
    return elsewhere + [
        f"{labels[row]}: searched {', '.join(axes)}; chosen by the column's metric on "
        f"{'TEST' if row.on_test else 'dev'}: {'; '.join(outcomes)}."
        for (row, axes), outcomes in found.items()
    ]


def _grouped(title: str, collected: Collected, words: Callable[[Alternative], str | None]) -> str:
    """What is to be said of each row, those of which the same is said together."""
    rows: dict[str, list[Row]] = {}
    for (row, _), entry in collected.entries.items():
        said = None if entry.chosen is None else words(entry.chosen)
        if said is not None:
            rows.setdefault(said, []).append(row)
    shown = [row for (row, _), entry in collected.entries.items() if entry.chosen is not None]
    parts = [f"{listed(_names(found, shown, collected))}: {said}" for said, found in rows.items()]
    return f"{title}: {'; '.join(parts)}." if parts else ""


def _on_dev(column: Column) -> str:
    return (
        f"{column.title} is scored on DEV: no cell asks for the test split; "
        "write evaluate.splits: [dev, test] to report test. What was also chosen on dev is optimistic."
    )
