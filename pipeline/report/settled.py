"""Which of a table's sets had already been scored on dev by the search that settled their settings.

Such a set is the winner of that search, not a fresh draw: part of its score is the luck for which it was chosen.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.report.archive import name_of
from pipeline.report.collect import Collected, Entry, pooled

WINNERS = (
    "Among the sets of an entry are those by whose dev scores {} chose its settings, and luck is part of why they won; "
    "mean of the other sets alone (how many): {}."
)
UNKNOWN = "Whether a set here is the very one by whose dev score {} chose the settings is not known: {} is not there."


def sentences(collected: Collected, folder: Path) -> tuple[str, ...]:
    """A sentence per search, with the mean of the sets that it had not seen.

    Args:
        collected: the table's cells.
        folder: of the search's ledger, ``<search>.ledger.csv``, which names the sets that it scored.

    """
    found = []
    for search in dict.fromkeys(entry.search for entry in collected.entries.values() if entry.search is not None):
        ledger = folder / f"{search}.ledger.csv"
        if not ledger.exists():
            found.append(UNKNOWN.format(search, ledger.name))
            continue
        costs = pd.read_csv(ledger)
        scored = set(costs.loc[costs["stage"] == "distill", "cell"])
        rows: dict[str, list[str]] = {}
        for (row, column), entry in collected.entries.items():
            if entry.search == search and (others := _others(entry, scored)) is not None:
                rows.setdefault(collected.layout.labels[row], []).append(f"{column.title} {others}")
        parts = [f"{label}: {', '.join(of_row)}" for label, of_row in rows.items()]
        found += [WINNERS.format(search, "; ".join(parts))] if parts else []
    return tuple(found)


def _others(entry: Entry, scored: set[str]) -> str | None:
    """The headline of the sets that the search had not scored, in percent; None where it had scored none of them."""
    cells = entry.chosen.cells if entry.chosen is not None else ()
    fresh = [cell for cell in cells if name_of(cell.config.source) not in scored]
    if len(fresh) == len(cells):
        return None
    others = pooled(fresh)
    sample = None if others is None else others.sample(entry.column.metric, entry.column.split)
    return "there is no other" if sample is None else f"{100 * sample.estimate.mean:.1f} ({len(sample.by_set)})"
