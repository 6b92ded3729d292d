"""Sets of real training sentences: a random draw, the whole split, the majority class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.config import Distill, FullData, Majority, RandomReal
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.distilled import DistilledSet, Recipe
from pipeline.errors import InputError
from pipeline.randomness import numpy_generator


def choose(config: Distill, prepared: Prepared) -> DistilledSet:
    """The training rows that the method keeps, as token ids with hard labels.

    Raises:
        InputError: a class has fewer training rows than shots.

    """
    method, train = config.method, prepared.split("train")
    labels = train.labels.numpy()
    C = len(prepared.classes)
    if isinstance(method, FullData):
        return as_set(train, np.arange(len(labels)), C, Recipe("finetune"))
    if isinstance(method, Majority):
        most = int(np.bincount(labels, minlength=C).argmax())
        return as_set(train, np.flatnonzero(labels == most)[:1], C, Recipe("majority"))
    assert isinstance(method, RandomReal)
    rows = []
    for label in range(C):
        of_class = np.flatnonzero(labels == label)
        if len(of_class) < method.shots:
            raise InputError(f"class {label} has {len(of_class)} training rows, too few for shots: {method.shots}")
        rows.append(numpy_generator(config.seed, "random real", label).choice(of_class, method.shots, replace=False))
    # Sample i is of class i mod C, as in every other set.
    return as_set(train, np.stack(rows, axis=1).reshape(-1), C, Recipe("finetune"))


def as_set(train: Split, rows: np.ndarray[Any, np.dtype[np.int64]], classes: int, recipe: Recipe) -> DistilledSet:
    """Training rows as a distilled set of token ids."""
    found = train.rows[rows]
    label_ids = torch.tensor(found["label"])
    types = found.get("token_type_ids")
    return DistilledSet(
        labels=F.one_hot(label_ids, classes).float(),
        label_ids=label_ids,
        recipe=recipe,
        token_ids=_padded(found["input_ids"], -1),
        token_type_ids=None if types is None else _padded(types, 0),
    )


def _padded(sequences: list[list[int]], value: int) -> torch.Tensor:
    """[N, longest, rounded up to a multiple of 8]."""
    width = -(-max(map(len, sequences)) // 8) * 8
    return torch.tensor([[*sequence, *[value] * (width - len(sequence))] for sequence in sequences])
