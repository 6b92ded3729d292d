"""From a task's description to raw splits: text columns and integer labels, checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, load_dataset, load_from_disk

from pipeline.config.data import FileSource, HubSource, SavedSource, SplitNames, Task
from pipeline.config.problems import nearest
from pipeline.data.hub import explained
from pipeline.errors import InputError
from pipeline.store import locate

_READERS = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
}


@dataclass(frozen=True)
class RawSplits:
    """A task's rows before tokenisation.

    Attributes:
        splits: "train" and, where the source has them, "dev" and "test"; columns: the task's text columns (stripped
            strings) and ``label`` (0 … C-1).
        classes: the C class names, in label order.

    """

    splits: dict[str, Dataset]
    classes: list[str]


def load_raw(task: Task) -> RawSplits:
    """Loads a task's splits.

    Args:
        task: what to load; a hub source with its revision resolved.

    Raises:
        InputError: a file, column or split is missing, a split is empty, there is one class only, or a label is
            unknown or means something else in another split.

    """
    found = _read(task)
    for split, rows in found.items():
        _check_columns(task, split, rows)
    found = {split: _keep(task, split, rows) for split, rows in found.items()}
    classes, code = _classes(task, found)
    splits = {split: _coded(task, split, rows, code, classes) for split, rows in found.items()}
    if len(classes) < 2 or len(set(splits["train"]["label"])) < 2:
        raise InputError(
            f"task {task.name}: train has one class only ({classes[0]}); a classification task needs two or more"
        )
    return RawSplits(splits, classes)


def _read(task: Task) -> dict[str, Dataset]:
    source = task.source
    if isinstance(source, FileSource):
        names = {"train": source.train, "dev": source.dev, "test": source.test}
        return {split: _read_file(task, name) for split, name in names.items() if name}
    if isinstance(source, SavedSource):
        saved = load_from_disk(str(locate(source.folder)))
        return _pick(task, saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved), source.splits)
    return _pick(task, _read_hub(source), source.splits)


def _read_file(task: Task, name: str) -> Dataset:
    path = locate(name)
    suffix = Path(name).suffix.lower()
    if suffix not in _READERS or path is None:
        raise InputError(f"task {task.name}: {name}: cannot read '{suffix}' files; allowed: {', '.join(_READERS)}")
    reader, options = _READERS[suffix]
    try:
        # keep_in_memory: the Arrow files that count are written by stage 1, not to the user's cache
        return load_dataset(reader, data_files=str(path), split="train", keep_in_memory=True, **options)
    except Exception as error:
        reason = error.__cause__ or error
        raise InputError(
            f"task {task.name}: {name}: not readable as {reader}: {str(reason).splitlines()[0]}"
        ) from error


def _read_hub(source: HubSource) -> DatasetDict:
    with explained("dataset", source.id):
        return load_dataset(source.id, source.subset, revision=source.revision, token=os.environ.get("HF_TOKEN"))


def _pick(task: Task, found: DatasetDict, names: SplitNames) -> dict[str, Dataset]:
    picked = {}
    for split, name in (("train", names.train), ("dev", names.dev), ("test", names.test)):
        if name is None:
            continue
        if name not in found:
            raise InputError(
                f"task {task.name}: source has no split '{name}'{nearest(name, found)}; it has: {', '.join(found)}"
            )
        picked[split] = found[name]
    return picked


def _check_columns(task: Task, split: str, rows: Dataset) -> None:
    for column in (*task.text, task.label, *task.where):
        if column not in rows.column_names:
            raise InputError(
                f"task {task.name}: {split} has no column '{column}'{nearest(column, rows.column_names)}; "
                f"it has: {', '.join(rows.column_names)}"
            )


def _keep(task: Task, split: str, rows: Dataset) -> Dataset:
    for column, value in task.where.items():
        values = rows.with_format("numpy", columns=[column])[column]
        rows = rows.select([index for index, cell in enumerate(values) if cell == value])
    if not len(rows):
        kept = f" after keeping {task.where}" if task.where else ""
        raise InputError(f"task {task.name}: {split} is empty{kept}; give a source with rows")
    return rows


def _classes(task: Task, found: dict[str, Dataset]) -> tuple[list[str], Callable[[Any], int | None]]:
    """Class names in label order, and the map from a cell of the label column to 0 … C-1 (None: unlabelled)."""
    features = {split: rows.features[task.label] for split, rows in found.items()}
    named = {split: feature.names for split, feature in features.items() if isinstance(feature, ClassLabel)}
    train = named.get("train")
    for split, names in named.items():
        if train is not None and names != train:
            raise InputError(
                f"task {task.name}: label map of {split} ({', '.join(names)}) disagrees with train's ({', '.join(train)}); "
                f"make them equal, or give the labels as strings"
            )
    if task.labels is not None:
        codes = {value: index for index, value in enumerate(task.labels)}
        if train is not None:
            codes = {train.index(value) if isinstance(value, str) else value: index for value, index in codes.items()}
        return [str(value) for value in task.labels], codes.get
    if train is not None:
        return list(train), {index: index for index in range(len(train))}.get
    values = sorted(
        {value for value in found["train"][task.label] if value is not None}, key=lambda v: (isinstance(v, str), v)
    )
    codes = {value: index for index, value in enumerate(values)}
    return [str(value) for value in values], codes.get


def _coded(task: Task, split: str, rows: Dataset, code: Callable[[Any], int | None], classes: list[str]) -> Dataset:
    labels = [code(value) for value in rows[task.label]]
    if None in labels:
        row = labels.index(None)
        raise InputError(
            f"task {task.name}: {split} row {row} has the unknown label {rows[row][task.label]!r}; allowed: {', '.join(classes)}"
        )
    texts = {column: [str(text if text is not None else "").strip() for text in rows[column]] for column in task.text}
    return Dataset.from_dict({**texts, "label": labels})
