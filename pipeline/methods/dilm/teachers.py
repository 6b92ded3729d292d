"""The real rows whose gradients a generator is taught (DiLM, section 3.3: representative teachers)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
        self.method, self.seed = config.method.teachers, config.seed
        self.labels = train.labels.numpy()
        shares = per_class(np.bincount(self.labels, minlength=len(prepared.classes)), self.method.shots, "uniform")
        self.sets = representative(config, train, shares, student) if self.method.choose == "k_centres" else []

    def at(self, update: int, label: int) -> Integers:
        """The training rows of one class that update ``update`` looks at."""
        if self.sets:
            return self.sets[update % len(self.sets)][label]
        generator = numpy_generator(self.seed, "teachers", update, label)
        return generator.choice(np.flatnonzero(self.labels == label), self.method.shots, replace=False)


def representative(config: Distill, train: Split, shares: Sequence[int], student: Student) -> list[list[Integers]]:
    """[sets][C] rows: of each class those nearest to the centroids of k-means, anew for every set."""
    assert isinstance(config.method, DiLM)
    teachers = config.method.teachers
    centres = KCentres(name="k_centres", shots=teachers.shots, centres="kmeans", candidates=teachers.candidates)
    candidates = drawn(train, shares, centres, config.seed)
    theta = student.initial(config.seed, 0)
    vectors = [vectors_of(student, theta, train.select(rows), config.method.pooling) for rows in candidates]
    return [
        [
            rows[pick(centres, of_class, share, derive(config.seed, "teachers", number), label)]
            for label, (rows, of_class, share) in enumerate(zip(candidates, vectors, shares, strict=True))
        ]
        for number in range(teachers.sets)
    ]
