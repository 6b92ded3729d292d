"""The complete state of a running distillation on disk, and its log, cut back to that state."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.store.atomic import replacing, write_text

FIELDS = (
    "step",
    "epoch",
    "loss",
    "gradient_norm",
    "learning_rate",
    "validation_loss",
    "validation_accuracy",
    "validation_score",
    "seconds",
)


class Checkpoint:
    """``progress.pt`` (private to the cell) and ``log.csv`` (one row per outer step).

    Rows reach the log only together with the state that follows them, so that a killed run neither repeats nor
    misses one. One that does not write (of another rank than the first) neither reads.

    Args:
        folder: of the cell.
        every_seconds: longest time between two saves.
        writes: whether it does.
        more: columns of the log besides the usual ones.

    """

    def __init__(self, folder: Path, every_seconds: float, *, writes: bool = True, more: Sequence[str] = ()) -> None:
        self._writes, self._fields = writes, (*FIELDS, *more)
        self._state_file = folder / "progress.pt"
        self._log_file = folder / "log.csv"
        self._every = every_seconds
        self._rows: list[dict[str, Any]] = []
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last saved state, in main memory, or ``None`` at the start; cuts the log back to it."""
        if not self._writes:
            return None
        if not self._state_file.exists():
            write_text(self._log_file, ",".join(self._fields) + "\n")
            return None
        state: dict[str, Any] = torch.load(self._state_file, map_location="cpu", weights_only=True)
        with open(self._log_file, newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["seconds"] and int(row["step"]) <= state["step"]]
        with replacing(self._log_file) as aside, open(aside, "w", newline="") as file:
            writer = csv.DictWriter(file, self._fields)
            writer.writeheader()
            writer.writerows(kept)
        return state

    def log(self, **row: Any) -> None:
        """Adds a row; it is written with the next save."""
        if self._writes:
            self._rows.append(row)

    def due(self) -> bool:
        """Whether the last save is longer ago than allowed."""
        return time.monotonic() - self._saved >= self._every

    def save(self, state: dict[str, Any]) -> None:
        """Writes the pending rows, then the state."""
        if not self._writes:
            return
        with open(self._log_file, "a", newline="") as file:
            csv.DictWriter(file, self._fields).writerows(self._rows)
        self._rows = []
        with replacing(self._state_file) as aside:
            torch.save(state, aside)
        self._saved = time.monotonic()
