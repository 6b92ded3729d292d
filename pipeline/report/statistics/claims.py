"""The paper's claims, one by one, and what our own runs say of each.

A claim is a set of pairs of rows with the sign that their difference should have. All pairs of a grid are tested as
:mod:`~pipeline.report.statistics.comparisons` does, and corrected together. A claim speaks of methods, not of two
files: where a side has a single distilled set, another one might have answered otherwise, and the claim stays
undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.config import Experiment
from pipeline.report.beside import sizes
from pipeline.report.collect import Collected, Sample
from pipeline.report.row import Row
from pipeline.report.statistics.comparisons import Comparison, compare_pairs
from pipeline.report.statistics.differences import DRAWS, PERMUTATIONS
from pipeline.report.tables import Table

Pairs = list[tuple[Row, Row]]
HOLDS, CONTRADICTED, UNDECIDED, NOT_TESTED = "holds", "contradicted", "undecided", "not tested"
COLUMNS = (
    *("claim", "task", "first", "second", "n_first", "n_second", "difference", "ci_low", "ci_high", "p_holm"),
    *("for_these_sets", "verdict", "why"),
)


@dataclass(frozen=True)
class Claim:
    """What the paper says: ``first`` − ``second`` has this sign, for the pairs that ``pairs`` finds among rows."""

    text: str
    sign: int
    pairs: Callable[[Sequence[Row]], Pairs]


def _methods(*wanted: tuple[str, str]) -> Callable[[Sequence[Row]], Pairs]:
    """Rows of these methods, where their budgets are equal."""

    def pairs(rows: Sequence[Row]) -> Pairs:
        equal = [(a, b) for a in rows for b in rows if _budget(a) == _budget(b)]
        return [(a, b) for names in wanted for a, b in equal if (a.method, b.method) == names]

    return pairs


def _again(rows: Sequence[Row]) -> Pairs:
    """Several steps on the same samples, and one step on them."""
    return [(a, b) for a in rows for b in rows if a.data == "same" and b.steps == 1 and _alike(a, b, a.shots)]


def _different(rows: Sequence[Row]) -> Pairs:
    """Steps on different samples, and as many steps on the same samples, as many per step."""
    return [
        (a, b) for a in rows for b in rows
        if a.data == "different" and b.data == "same" and a.steps == b.steps
        and a.shots and a.steps and _alike(a, b, a.shots // a.steps)
    ]  # fmt: skip


CLAIMS = (
    Claim("attention labels help on every task", 1, _methods(("HL + AL", "HL"), ("SL + AL", "SL"))),
    Claim("soft labels help", 1, _methods(("SL", "HL"), ("SL + AL", "HL + AL"))),
    Claim("the same data over several steps hurts", -1, _again),
    Claim("different data per step helps, against the same data", 1, _different),
)


def claims(collected: Collected) -> pd.DataFrame:
    """One line per claim, task and pair of rows.

    ``difference``, ``ci_low`` and ``ci_high`` are in points, ``p_holm`` is corrected for all lines.
    ``for_these_sets`` is the outcome of the test; ``verdict`` is what follows for the claim: undecided as well where a
    side has one set. ``why`` says what was missing. Claims without any pair in the grid have no line.
    """
    rows = [row for row in collected.layout.rows if row.kind == "ddal"]
    asked = [(claim, pair) for claim in CLAIMS for pair in claim.pairs(rows)]
    found = compare_pairs([pair for _, pair in asked], collected)
    by_pair = {(each.first, each.second, each.column): each for each in found}
    records = [
        _record(claim, by_pair[(*pair, column)], collected)
        for claim in CLAIMS
        for column in collected.layout.columns
        for other, pair in asked
        if other is claim
    ]
    return pd.DataFrame(records, columns=COLUMNS)


def summary(frame: pd.DataFrame) -> tuple[str, ...]:
    """One sentence per claim, over all of its lines."""
    sentences = []
    for claim in CLAIMS:
        verdicts = list(frame[frame["claim"] == claim.text]["verdict"])
        if not verdicts:
            sentences.append(f"“{claim.text}”: no pair of rows in this experiment speaks of it.")
            continue
        counts = {name: verdicts.count(name) for name in (HOLDS, CONTRADICTED, UNDECIDED, NOT_TESTED)}
        whole = HOLDS if counts[HOLDS] == len(verdicts) else CONTRADICTED if counts[CONTRADICTED] else UNDECIDED
        shown = ", ".join(f"{name} in {count}" for name, count in counts.items() if count)
        sentences.append(f"“{claim.text}”: {whole.upper()} as a whole ({shown}; of {len(verdicts)} comparisons).")
    return tuple(sentences)


def table(experiment: Experiment, collected: Collected) -> Table:
    """The claims as a table, with a sentence on each below."""
    frame = claims(collected)
    shown = pd.DataFrame(
        {
            "claim": frame["claim"],
            "task": frame["task"],
            "compared (n = sets × initialisations)": [
                f"{first} ({n}) − {second} ({m})"
                for first, n, second, m in frame[["first", "n_first", "second", "n_second"]].values.tolist()
            ],
            "difference, points": [_number(value, "+.1f") for value in frame["difference"]],
            "95 % interval": [
                "–" if pd.isna(low) else f"[{low:+.1f}, {high:+.1f}]"
                for low, high in zip(frame["ci_low"], frame["ci_high"], strict=True)
            ],
            "p (Holm)": [
                "–" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" for p in frame["p_holm"].astype(float)
            ],
            "for these sets": frame["for_these_sets"],
            "verdict": [
                f"{verdict} ({why})" if why else verdict for verdict, why in frame[["verdict", "why"]].values.tolist()
            ],
        }
    )
    count = int(frame["p_holm"].notna().sum())
    caption = (*summary(frame), *((_how(count), *sizes(collected)) if count else ()))
    return Table("claims", f"{experiment.name}: the paper's claims", shown, caption=caption)


def _how(tests: int) -> str:
    return (
        f"Holds / contradicted: both tests reject at 5 % after Holm's correction for all {tests} tests of this table "
        f"and the 95 % interval excludes zero, with the sign that the paper claims / the other one: a permutation test "
        f"paired over test rows ({PERMUTATIONS:,} permutations), and Student's t on the variance over rows, sets and "
        f"initialisations (interval: hierarchical bootstrap, {DRAWS:,} draws). Undecided is not equal: the seeds "
        f"cannot tell. With one set on a side the test speaks of these sets alone, and the claim, which is about the "
        f"method, stays undecided."
    )


def _record(claim: Claim, each: Comparison, collected: Collected) -> dict[str, Any]:
    labels = collected.layout.labels
    samples = [collected.sample(row, each.column) for row in (each.first, each.second)]
    record: dict[str, Any] = {"claim": claim.text, "task": each.column.title}
    record |= {"first": labels[each.first], "second": labels[each.second]}
    record |= {"n_first": _size(samples[0]), "n_second": _size(samples[1])}
    record |= {"difference": None if each.points is None else 100 * each.points}
    found = each.difference
    if found is None:
        why = "; ".join(f"{name}: {reason}" for name, reason in each.reasons)
        return record | {"for_these_sets": NOT_TESTED, "verdict": NOT_TESTED, "why": why}
    outcome = {0: UNDECIDED, claim.sign: HOLDS, -claim.sign: CONTRADICTED}[each.sign]
    single = any(sample is not None and len(sample.by_set) == 1 for sample in samples)
    record |= {"ci_low": 100 * found.low, "ci_high": 100 * found.high, "p_holm": each.p_holm}
    why = "one set on a side" if single and outcome != UNDECIDED else ""
    return record | {"for_these_sets": outcome, "verdict": UNDECIDED if single else outcome, "why": why}


def _budget(row: Row) -> tuple[Any, ...]:
    return row.steps, row.shots, row.data, row.on_test


def _alike(a: Row, b: Row, shots: int | None) -> bool:
    """Whether ``b`` is of the same method as ``a`` with this many samples per class."""
    return (b.method, b.shots, b.on_test) == (a.method, shots, a.on_test)


def _size(sample: Sample | None) -> str:
    return "–" if sample is None else sample.size


def _number(value: Any, form: str) -> str:
    return "–" if value is None or pd.isna(value) else format(value, form)
