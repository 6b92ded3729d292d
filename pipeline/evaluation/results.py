"""``results.csv``: long form, one row per (initialisation, split, metric), and its own checkpoint."""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.store.atomic import write_text

FIELDS = ("initialisation", "split", "metric", "value", "seconds")
Scores = Mapping[Any, Mapping[str, float]]  # split -> metric -> value


class Results:
    """The rows of one cell. An initialisation is in the file wholly or not at all once the file was opened.

    Args:
        path: the CSV; a torn last line and initialisations without all ``splits`` are dropped on opening.
        splits: the splits that a finished initialisation has.

    """

    def __init__(self, path: Path, splits: tuple[str, ...]) -> None:
        self._path = path
        whole = _whole(path, splits) if path.exists() else {}
        write_text(path, _lines([FIELDS, *(row for rows in whole.values() for row in rows)]))
        self.done = set(whole)

    def add(self, initialisation: int, scores: Scores, seconds: float) -> None:
        """Appends all rows of one initialisation in one write.

        Args:
            initialisation: its number.
            scores: value of every metric on every split.
            seconds: wall seconds of its training.

        """
        rows = [
            (initialisation, split, metric, repr(value), f"{seconds:.4f}")
            for split, metrics in scores.items()
            for metric, value in metrics.items()
        ]
        with open(self._path, "a", newline="") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())
        self.done.add(initialisation)


def _lines(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _whole(path: Path, splits: tuple[str, ...]) -> dict[int, list[tuple[object, ...]]]:
    """Rows by initialisation, of those that have every metric of every split."""
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]
    found: dict[int, list[tuple[object, ...]]] = defaultdict(list)
    metrics: dict[tuple[int, str], set[str]] = defaultdict(set)
    for row in csv.DictReader(io.StringIO(complete)):
        number = int(row["initialisation"])
        found[number].append(tuple(row[name] for name in FIELDS))
        metrics[number, row["split"]].add(row["metric"])
    most = max((len(names) for names in metrics.values()), default=0)
    return {
        number: rows for number, rows in found.items() if all(len(metrics[number, split]) == most for split in splits)
    }
