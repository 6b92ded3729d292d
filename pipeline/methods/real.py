"""Sets of real training sentences: a random draw, a coreset, the whole split, the majority class, none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.config import Coreset, Distill, Empty, FullData, Majority, RandomReal
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.distilled import DistilledSet, Recipe
from pipeline.distilled.text import token_tensors
from pipeline.methods.budgets import Integers, interleaved, per_class
from pipeline.randomness import numpy_generator


def choose(config: Distill, prepared: Prepared, parent: Path | None = None) -> DistilledSet:
    """The training rows that the method keeps, as token ids with hard labels.

    ``about["chosen"]`` of a small set has their positions in the training split, and among how many they were chosen.

    Args:
        config: the cell.
        prepared: stage 1's output.
        parent: the cell's folder that has the generator, of ``rank`` alone.

    Raises:
        InputError: a class has fewer training rows than its budget, or see
            :func:`~pipeline.methods.coresets.choose_coreset`.

    """
    method, train = config.method, prepared.split("train")
    labels = train.labels.numpy()
    C = len(prepared.classes)
    if isinstance(method, FullData):
        return as_set(train, np.arange(len(labels)), C, Recipe("finetune"))
    if isinstance(method, Majority):
        most = int(np.bincount(labels, minlength=C).argmax())
        return as_set(train, np.flatnonzero(labels == most)[:1], C, Recipe("majority"))
    if isinstance(method, Empty):
        no_ids = torch.empty(0, dtype=torch.int64)
        return DistilledSet(
            torch.empty(0, C), no_ids, Recipe("prompting"), token_ids=torch.empty(0, 8, dtype=torch.int64)
        )
    if isinstance(method, Coreset):
        from pipeline.methods.coresets import choose_coreset

        chosen, facts = choose_coreset(config, prepared, train, parent)
    else:
        assert isinstance(method, RandomReal)
        chosen, facts = drawn(labels, C, method, config.seed), {"candidates": len(labels)}
    rows = interleaved(chosen)
    made = as_set(train, rows, C, Recipe("finetune"))
    return replace(made, about={"chosen": {"rows": rows.tolist(), **facts}})


def drawn(labels: Integers, classes: int, method: RandomReal, seed: int) -> list[Integers]:
    """Rows of every class, a draw of (seed, class) without replacement."""
    shares = per_class(np.bincount(labels, minlength=classes), method.shots, method.budget)
    return [
        numpy_generator(seed, "random real", label).choice(np.flatnonzero(labels == label), share, replace=False)
        for label, share in enumerate(shares)
    ]


def as_set(train: Split, rows: Integers, classes: int, recipe: Recipe) -> DistilledSet:
    """Training rows as a distilled set of token ids."""
    found = train.rows[rows]
    label_ids = torch.tensor(found["label"])
    return DistilledSet(
        labels=F.one_hot(label_ids, classes).float(),
        label_ids=label_ids,
        recipe=recipe,
        **token_tensors(found),
    )
