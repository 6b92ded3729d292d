"""Do a task's files have its columns? Asked when data are loaded, and of the first line before anything is queued."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.data import FileSource, JoinedSource, Task
from pipeline.config.problems import nearest
from pipeline.errors import InputError
from pipeline.store import locate

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def check_headers(task: Task) -> None:
    """Refuses a task whose CSV or TSV files do not have its columns; only their first lines are read.

    Other formats and broken files are left to stage 1, which reads all of them.

    Raises:
        InputError: a column is missing, or a file.

    """
    if isinstance(task.source, JoinedSource):
        for one in task.source.tasks:
            check_headers(one)
    elif isinstance(task.source, FileSource):
        for split, name in (("train", task.source.train), ("dev", task.source.dev), ("test", task.source.test)):
            path = locate(name) if name else None
            if path is not None and (columns := _header(path)):
                check_columns(task, split, columns)


def check_columns(task: Task, split: str, columns: Sequence[str]) -> None:
    """Refuses a split that does not have what the task reads.

    Raises:
        InputError: the first column that is missing, the nearest name and all that there are.

    """
    for column in (*task.text, task.label, *task.where):
        if column not in columns:
            glued = any(";" in name for name in columns)
            raise InputError(
                f"task {task.name}: {split} has no column '{column}'{nearest(column, columns)}; "
                f"it has: {', '.join(columns)}{'; separate columns by commas' if glued else ''}"
            )


def _header(path: Path) -> list[str]:
    """The names in the first line of a delimited file; none where it is of another kind or cannot be read."""
    separator = SEPARATORS.get(path.suffix.lower())
    if separator is None:
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = next((line for line in csv.reader(file, delimiter=separator) if line), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    if any("\0" in name for name in names):
        return []
    return [name or f"Unnamed: {index}" for index, name in enumerate(names)]  # as pandas calls them
