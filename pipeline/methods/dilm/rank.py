"""``rank``: the real rows that a language model of the task finds likeliest (DiLM's coreset of the same name)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.config import Distill, Rank, language_source
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.errors import InputError
from pipeline.methods.budgets import Integers
from pipeline.methods.dilm.generator import Generator
from pipeline.store import Store
from pipeline.students.device import pick_device


def likeliest(
    config: Distill,
    method: Rank,
    prepared: Prepared,
    train: Split,
    candidates: Sequence[Integers],
    shares: Sequence[int],
    parent: Path,
) -> list[Integers]:
    """The candidates of every class with the lowest loss of the generator; of equal ones the lower row.

    Args:
        config: of the cell.
        method: its method.
        prepared: the encoder's data.
        train: its training split.
        candidates: [C] rows of every class.
        shares: [C] how many of them are kept.
        parent: the folder of the cell that has the generator.

    Raises:
        InputError: the language model's data are not the encoder's, row by row.

    """
    written = Prepared(Store.of(prepared.folder).cell(language_source(config)).folder).split("train")
    if len(written) != len(train) or not written.labels.equal(train.labels):
        raise InputError(
            f"the training rows of {language_source(config).model.name} are not those of {config.source.model.name}; "
            f"prepare both anew from the same files"
        )
    generator = Generator.load(parent / "generator", len(prepared.classes), pick_device(config.runtime))
    rows = np.concatenate(candidates)
    losses = generator.mean_losses(generator.sequences(written, rows.tolist()), method.normalise).numpy()
    of_class = np.split(losses, np.cumsum([len(each) for each in candidates])[:-1])
    return [
        each[np.argsort(loss, kind="stable")[:share]]
        for each, loss, share in zip(candidates, of_class, shares, strict=True)
    ]
