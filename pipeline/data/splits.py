"""Carves the splits that a source does not have from its training split: stratified and seeded."""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from sklearn.model_selection import train_test_split

from pipeline.config import Prepare
from pipeline.data.loading import RawSplits
from pipeline.errors import InputError
from pipeline.randomness import derive


def carve(raw: RawSplits, config: Prepare) -> dict[str, Dataset]:
    """Train, dev and test splits; what the source lacks is taken out of train.

    Raises:
        InputError: the source has no test split and ``test`` is not given, or a carved split would have fewer rows
            than there are classes, or leave train too small.

    """
    splits = dict(raw.splits)
    for split, size in (("test", config.test), ("dev", config.dev)):
        if split in splits:
            continue
        if size is None:
            raise InputError(
                f"task {config.task.name}: its source has no {split} split; name one in the source, "
                f"or carve one from train with prepare.{split}: 0.1"
            )
        splits["train"], splits[split] = _carve_one(splits["train"], split, size, raw.classes, config)
    return {split: splits[split] for split in ("train", "dev", "test")}


def also_in(train: Dataset, rows: Dataset, text: tuple[str, ...]) -> int:
    """How many rows have the same text (all columns) as a row of train: scores on them are not of unseen text."""
    seen = set(zip(*(train[column][:] for column in text), strict=True))
    return sum(row in seen for row in zip(*(rows[column][:] for column in text), strict=True))


def without_text(rows: Dataset, text: tuple[str, ...]) -> int:
    """How many rows have nothing in any column of text."""
    return sum(not any(row) for row in zip(*(rows[column][:] for column in text), strict=True))


def _carve_one(train: Dataset, split: str, size: float, classes: list[str], config: Prepare) -> tuple[Dataset, Dataset]:
    rows = round(len(train) * size) if size < 1 else int(size)
    asked = f"task {config.task.name}: prepare.{split}: {size:g}"
    if rows < len(classes):
        raise InputError(
            f"{asked} gives {rows} rows for the {len(classes)} classes of column '{config.task.label}'; give at least "
            f"{len(classes)}, or name the column of the classes"
        )
    if rows > len(train) - len(classes):
        raise InputError(
            f"{asked} takes {rows} of {len(train)} training rows; give at most {len(train) - len(classes)}"
        )
    labels = np.asarray(train["label"])
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        raise InputError(
            f"task {config.task.name}: class '{classes[int(counts.argmin())]}' has fewer than 2 training rows, "
            f"so {split} cannot be carved from train; name a {split} split in the source, or add rows of that class"
        )
    seed = derive(config.seed, f"carve {split}") % 2**32
    left, taken = train_test_split(np.arange(len(train)), test_size=rows, stratify=labels, random_state=seed)
    return train.select(np.sort(left)), train.select(np.sort(taken))
