"""``results.csv``: long form, one row per (initialisation, split, metric), and its own checkpoint.

``robustness.csv`` is the same with a column ``variant`` before the others. No torch here: tables read this.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.store.atomic import write_text

FIELDS = ("initialisation", "split", "metric", "value", "seconds")
OWN, MAJORITY = "own", "majority"  # variants: the set's own recipe; always answering the most frequent class
Scores = Mapping[Any, Mapping[str, float]]  # split -> metric -> value


class Results:
    """The rows of one cell; the file is replaced as a whole, so an initialisation is in it wholly or not at all.

    Args:
        path: the CSV; initialisations in it that lack one of ``splits`` are dropped.
        splits: the splits that a finished initialisation has.

    """

    def __init__(self, path: Path, splits: tuple[str, ...]) -> None:
        self._path = path
        self._rows: dict[int, list[tuple[Any, ...]]] = {}
        if path.exists():
            with open(path, newline="") as file:
                self._rows = _whole(csv.DictReader(file), splits)
        self._write()

    @property
    def done(self) -> set[int]:
        """The initialisations that are in the file."""
        return set(self._rows)

    def add(self, initialisation: int, scores: Scores, seconds: float) -> None:
        """Adds all rows of one initialisation.

        Args:
            initialisation: its number.
            scores: value of every metric on every split.
            seconds: wall seconds of its training.

        """
        self._rows[initialisation] = _rows(initialisation, scores, seconds)
        self._write()

    def keep(self, initialisations: Collection[int]) -> None:
        """Drops all others."""
        if dropped := self.done - set(initialisations):
            for number in dropped:
                del self._rows[number]
            self._write()

    def _write(self) -> None:
        write_text(self._path, _lines([FIELDS, *(row for rows in self._rows.values() for row in rows)]))


class VariantResults:
    """The rows of the variants of one cell; the file is replaced as a whole.

    Args:
        path: the CSV; what lacks one of ``splits`` is dropped.
        splits: the splits on which every variant is scored.

    """

    def __init__(self, path: Path, splits: tuple[str, ...]) -> None:
        self._path = path
        self._rows: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
        if path.exists():
            with open(path, newline="") as file:
                by_variant = defaultdict(list)
                for row in csv.DictReader(file):
                    by_variant[row["variant"]].append(row)
            for variant, rows in by_variant.items():
                for number, found in _whole(rows, splits).items():
                    self._rows[variant, number] = found
        self._write()

    @property
    def done(self) -> set[tuple[str, int]]:
        """The variants and initialisations that are in the file."""
        return set(self._rows)

    def add(self, variant: str, initialisation: int, scores: Scores, seconds: float) -> None:
        """Adds all rows of one initialisation by one variant; arguments as for :class:`Results`."""
        self._rows[variant, initialisation] = _rows(initialisation, scores, seconds)
        self._write()

    def _write(self) -> None:
        rows = [(variant, *row) for (variant, _), rows in self._rows.items() for row in rows]
        write_text(self._path, _lines([("variant", *FIELDS), *rows]))


class Epochs:
    """``epochs.csv``: what every epoch of every initialisation scored on the split that selects, and which is kept.

    Args:
        path: the CSV; what is in it stays, unless its initialisation is trained again.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[int, list[list[object]]] = defaultdict(list)
        if path.exists():
            with open(path, newline="") as file:
                for row in list(csv.reader(file))[1:]:
                    self._rows[int(row[0])].append(list(row))

    def add(self, initialisation: int, epoch: int, loss: float, accuracy: float, kept: int) -> None:
        """Adds an epoch, counted from 1; ``kept`` is the one that is best so far."""
        if epoch == 1:
            self._rows[initialisation] = []
        rows = self._rows[initialisation]
        rows.append([initialisation, epoch, repr(loss), repr(accuracy), 0])
        for row in rows:
            row[-1] = int(row[1] == kept)
        header = ("initialisation", "epoch", "loss", "accuracy", "kept")
        write_text(self._path, _lines([header, *(row for number in sorted(self._rows) for row in self._rows[number])]))


def _lines(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _rows(initialisation: int, scores: Scores, seconds: float) -> list[tuple[Any, ...]]:
    return [
        (initialisation, split, metric, repr(value), f"{seconds:.4f}")
        for split, metrics in scores.items()
        for metric, value in metrics.items()
    ]


def _whole(read: Iterable[Mapping[str, Any]], splits: tuple[str, ...]) -> dict[int, list[tuple[Any, ...]]]:
    """Rows by initialisation, of those that have the same metrics on all splits."""
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in read:
        found[int(row["initialisation"])].append(tuple(row[name] for name in FIELDS))
    whole = {}
    for number, rows in found.items():
        metrics = [{metric for _, split, metric, *_ in rows if split == wanted} for wanted in splits]
        if metrics[0] and all(names == metrics[0] for names in metrics):
            whole[number] = rows
    return whole
