"""Vectors of training rows: an encoder's last hidden states, frozen or after some training."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.config import ByVectors, Distill, Training
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.errors import InputError
from pipeline.methods.budgets import Integers
from pipeline.progress import bar
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.encoder import Parameters, Student
from pipeline.students.finetune import finetune


class Vectors:
    """One θ, and vectors of rows on demand, so that those of one class are in memory at a time.

    Raises:
        InputError: the first token's vector is asked for, and the encoder does not classify by it.

    """

    def __init__(self, config: Distill, prepared: Prepared, train: Split) -> None:
        assert isinstance(config.method, ByVectors)
        self._method, self._train = config.method, train
        check_pooling(self._method.pooling, prepared)
        self._stored = prepared.vectors("train").vectors.numpy() if self._method.reads(config.source.vectors) else None
        if self._stored is not None:
            return
        self._student = load_student(config, prepared)
        self._theta = self._student.initial(config.seed, 0)
        if self._method.training is not None:
            self._theta = trained(self._student, train, len(prepared.classes), self._method.training, config.seed, 0)

    def of(self, rows: Integers) -> np.ndarray[Any, np.dtype[np.float32]]:
        """[rows, hidden]; read in order of length, or from stage 1's file."""
        if self._stored is not None:
            return np.asarray(self._stored[rows])
        return vectors_of(self._student, self._theta, self._train.select(rows), self._method.pooling)


def vectors_of(
    student: Student, theta: Parameters, split: Split, pooling: Literal["first", "mean"]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[rows, hidden] vectors of a split's rows, of which there is one at least; one batch of activations at a time."""
    found: np.ndarray[Any, np.dtype[np.float32]] | None = None
    with bar(len(split), "vectors", "row") as shown:
        for positions, batch in split.by_length(student.device):
            vectors = student.vectors(theta, batch, pooling).cpu().numpy()
            found = np.empty((len(split), vectors.shape[1]), dtype=np.float32) if found is None else found
            found[positions.numpy()] = vectors
            shown.update(len(positions))
    assert found is not None
    return found


def check_pooling(pooling: Literal["first", "mean"], prepared: Prepared) -> None:
    """Refuses first-token vectors of an encoder that has none.

    Raises:
        InputError: it does not classify by its first token.

    """
    if pooling == "first" and not prepared.manifest["reads_first_token"]:
        raise InputError(
            f"{prepared.manifest['architecture']} does not read its first token, so that token's vector says "
            f"nothing of a sentence; write pooling: mean"
        )


def load_student(config: Distill, prepared: Prepared) -> Student:
    """The encoder on the device of ``config``."""
    device = pick_device(config.runtime)
    return Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], device)


def trained(student: Student, train: Split, classes: int, training: Training, seed: int, number: int) -> Parameters:
    """θ of the ``number``-th student, trained on the whole training split."""

    def examples(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        batch = train.batch(rows.tolist(), student.device)
        return batch | {"labels": F.one_hot(batch["labels"], classes).float()}

    seed = derive(seed, "students of a coreset")
    with bar(1, f"student {number + 1}", "training", fractions=True) as shown:

        def watch(step: int, steps: int, loss: float) -> None:
            shown.set_postfix(loss=f"{loss:.3f}", refresh=False)
            shown.update(1 / steps)

        return finetune(student, student.initial(seed, number), len(train), examples, training, seed, number, watch)
