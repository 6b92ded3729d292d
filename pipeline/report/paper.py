"""The published numbers (``paper.csv``), which stand beside ours and are never mixed with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.errors import InputError
from pipeline.report.layout import Column
from pipeline.report.row import Row

FILE = Path(__file__).with_name("paper.csv")  # in the package: jobs run a copy of it
HEADING = "paper (BERT-base)"
ENCODER = "google-bert/bert-base-uncased"
TRAIN_ROWS = {"ag_news": 120_000, "sst2": 67_349, "qnli": 104_743, "mrpc": 3_668}  # as published, dev not carved out
METRICS = {"ag_news": "accuracy", "sst2": "accuracy", "qnli": "accuracy", "mrpc": "accuracy_f1"}


@dataclass(frozen=True)
class Paper:
    """Means and standard deviations in percent, as printed, of one of the paper's tables."""

    frame: pd.DataFrame

    def has(self, column: Column) -> bool:
        """Whether the paper reports this task by the same metric."""
        return METRICS.get(_task(column)) == column.metric and bool((self.frame["task"] == _task(column)).any())

    def entry(self, row: Row, column: Column) -> str:
        """Such as ``93.0 ± 0.2``; empty where the paper has no such row."""
        found = self.number(row, column)
        if found is None:
            return ""
        mean, std = found
        return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"

    def number(self, row: Row, column: Column) -> tuple[float, float | None] | None:
        """Mean and standard deviation in percent; None where the paper has no such row."""
        frame = self.frame[(self.frame["task"] == _task(column)) & (self.frame["row"] == row.method)]
        if row.kind == "ddal":
            budget = (frame["steps"] == row.steps) & (frame["shots"] == row.shots) & (frame["data"] == row.data)
            frame = frame[budget]
        if frame.empty or not self.has(column):
            return None
        mean, std = map(float, frame.iloc[0][["mean", "std"]])
        return mean, None if pd.isna(std) else std

    def full(self, column: Column) -> float | None:
        """The mean of full data in percent, which Table 2 has."""
        frame = self.frame[(self.frame["task"] == _task(column)) & (self.frame["row"] == "full data")]
        return None if frame.empty or not self.has(column) else float(frame.iloc[0]["mean"])


def read(table: str, file: Path = FILE) -> Paper:
    """The paper's table ``table2`` or ``table3``.

    Raises:
        InputError: the file of published numbers is not there.

    """
    if not file.is_file():
        raise InputError(f"{file}: no such file with the paper's numbers; restore it or write report: {{paper: false}}")
    frame = pd.read_csv(file)
    return Paper(frame[frame["table"] == table])


def has_encoder(column: Column) -> bool:
    """Whether a column is of the encoder that the paper used."""
    model = column.prepares[0].model
    return model.pretrained and model.name in (ENCODER, ENCODER.partition("/")[2])


def _task(column: Column) -> str:
    return column.prepares[0].task.name
