"""The real rows whose gradients a generator is taught (DiLM, section 3.3: representative teachers)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline import stopping
from pipeline.config import DiLM, Distill, KCentres
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.methods.budgets import Integers, per_class
from pipeline.methods.coresets.candidates import drawn
from pipeline.methods.coresets.geometry import pick
from pipeline.methods.coresets.vectors import vectors_of
from pipeline.randomness import derive, numpy_generator
from pipeline.students.encoder import Student


class Teachers:
    """Rows of every class, by update; a pure function of (seed, update).

    Representative rows are found when they are first asked for, and kept with the state: of a large task the vectors
    and as many k-means as there are sets take longer than many an update.

    Args:
        config: with a ``dilm`` method.
        prepared: the encoder's data.
        train: its training split.
        student: the frozen encoder.

    Raises:
        InputError: a class has fewer different rows than are asked for.

    """

    def __init__(self, config: Distill, prepared: Prepared, train: Split, student: Student) -> None:
        assert isinstance(config.method, DiLM)
        self.config, self.method, self.train, self.student = config, config.method.teachers, train, student
        self.labels = train.labels.numpy()
        counts, shots = np.bincount(self.labels, minlength=len(prepared.classes)), self.method.shots
        shares = per_class(counts, shots, "uniform", key="teachers.shots")
        self.centres = KCentres(name="k_centres", shots=shots, centres="kmeans", candidates=self.method.candidates)
        self.candidates: list[Integers] = []
        if self.method.choose == "k_centres":
            self.candidates = drawn(train, shares, self.centres, config.seed, key="teachers.shots")
        self._sets: Integers | None = None

    def at(self, update: int, label: int) -> Integers:
        """The training rows of one class that update ``update`` looks at.

        Raises:
            Stopped: a signal came while representative rows were looked for.

        """
        if self.method.choose == "k_centres":
            if self._sets is None:
                self._sets = self._representative()
            found: Integers = self._sets[update % self.method.sets, label]
            return found
        generator = numpy_generator(self.config.seed, "teachers", update, label)
        return generator.choice(np.flatnonzero(self.labels == label), self.method.shots, replace=False)

    def _representative(self) -> Integers:
        """[sets, C, shots] rows: of each class those nearest to the centroids of k-means, anew for every set."""
        assert isinstance(self.config.method, DiLM)
        theta, pooling = self.student.initial(self.config.seed, 0), self.config.method.pooling
        vectors = [vectors_of(self.student, theta, self.train.select(rows), pooling) for rows in self.candidates]
        return np.stack([self._of_set(number, vectors) for number in range(self.method.sets)])

    def _of_set(self, number: int, vectors: Sequence[np.ndarray[Any, Any]]) -> Integers:
        stopping.check()
        seed = derive(self.config.seed, "teachers", number)
        return np.stack(
            [
                rows[pick(self.centres, of_class, self.method.shots, seed, label)]
                for label, (rows, of_class) in enumerate(zip(self.candidates, vectors, strict=True))
            ]
        )

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs."""
        return {} if self._sets is None else {"teachers": torch.from_numpy(self._sets)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes representative rows that were found before."""
        if "teachers" in state:
            self._sets = state["teachers"].numpy()
