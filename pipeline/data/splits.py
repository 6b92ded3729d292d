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
        splits["train"], splits[split] = _carve_one(splits["train"], split, size, len(raw.classes), config)
    return {split: splits[split] for split in ("train", "dev", "test")}


def _carve_one(train: Dataset, split: str, size: float, classes: int, config: Prepare) -> tuple[Dataset, Dataset]:
    rows = round(len(train) * size) if size < 1 else int(size)
    if rows < classes:
        raise InputError(
            f"task {config.task.name}: prepare.{split}: {size} gives {rows} rows for {classes} classes; "
            f"give at least {classes}"
        )
    if rows > len(train) - classes:
        raise InputError(
            f"task {config.task.name}: prepare.{split}: {size} takes {rows} of {len(train)} training rows; "
            f"give at most {len(train) - classes}"
        )
    labels = np.asarray(train["label"])
    if np.bincount(labels, minlength=classes).min() < 2:
        rare = int(np.bincount(labels, minlength=classes).argmin())
        raise InputError(
            f"task {config.task.name}: class {rare} has fewer than 2 training rows; {split} cannot be carved from train"
        )
    seed = derive(config.seed, f"carve {split}") % 2**32
    left, taken = train_test_split(np.arange(len(train)), test_size=rows, stratify=labels, random_state=seed)
    return train.select(np.sort(left)), train.select(np.sort(taken))
