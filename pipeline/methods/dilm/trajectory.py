"""The students on which gradients are matched: fresh ones that train on real rows between updates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import DiLM
from pipeline.data.tokenised import Split, TrainingOrder
from pipeline.randomness import derive
from pipeline.students.encoder import Parameters, Student
from pipeline.students.finetune import Learned, learning


class Trajectory:
    """θ of the student that an update looks at: a pure function of (seed, update).

    Asked for in order, a student takes each of its steps once. In another order, as after a resume, it is trained again
    from its beginning, to the same bits: so that no student need be saved.

    Args:
        method: how many steps between updates, how many updates per student, and how it trains.
        student: the model as a function.
        train: the real rows.
        classes: C.
        seed: of the cell.

    """

    def __init__(self, method: DiLM, student: Student, train: Split, classes: int, seed: int) -> None:
        self.method, self.student, self.train, self.classes = method, student, train, classes
        self.seed = derive(seed, "students of matching")
        size = min(method.student.batch_size, len(train))
        self._order = TrainingOrder(train.lengths, size, self.seed)
        self._number, self._taken = -1, 0
        self._theta: Parameters = {}
        self._steps: Iterator[Learned] = iter(())

    def at(self, update: int) -> Parameters:
        """θ before update ``update``; later calls may change it in place.

        Raises:
            Stopped: a signal came.

        """
        number, place = divmod(update, self.method.updates)
        wanted = place * self.method.student_steps
        if number != self._number or wanted < self._taken:
            self._begin(number)
        last: Learned | None = None
        self.student.training(self.method.student.dropout)
        while self._taken < wanted:
            last = next(self._steps)
            self._taken += 1
        self.student.training(False)
        if last is not None:
            self._theta = last.parameters()
        return self._theta

    def _begin(self, number: int) -> None:
        """A fresh student; every student sees other batches."""
        self._number, self._taken = number, 0
        self._theta = self.student.initial(self.seed, number)
        count = max(1, self.method.longest)
        batches = [self._order.at(number * count + step) for step in range(count)]
        rows = self.train.select(np.concatenate(batches))
        size = len(batches[0])

        def examples(positions: Tensor) -> dict[str, Tensor]:
            batch = rows.batch(positions.tolist(), self.student.device)
            return batch | {"labels": F.one_hot(batch["labels"], self.classes).float()}

        recipe = self.method.student.model_copy(update={"batch_size": size})
        self._steps = learning(self.student, self._theta, len(rows), examples, recipe, self.seed, number)
