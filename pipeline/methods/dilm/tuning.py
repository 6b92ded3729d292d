"""``dilm``: a generator learns to prefer texts whose gradients are those of real rows (DiLM, algorithm 1).

One update is: take a diverse mini-batch of every class from the pool of the generator's own texts, weight it by how
likely the generator finds each text, compare its gradient on a student with that of real rows, and move the generator.
Every few updates there is a fresh student, which trains on real rows in between; after some students a new pool.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import DiLM, Distill
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import TrainingOrder
from pipeline.methods.checkpoint import Checkpoint
from pipeline.methods.coresets.vectors import check_pooling
from pipeline.methods.dilm.generator import Generator, normalised
from pipeline.methods.dilm.matching import gradient, match, matched_names, weights
from pipeline.methods.dilm.optimisation import Optimisation
from pipeline.methods.dilm.pool import TextPool, written_pool
from pipeline.methods.dilm.pretrain import language_modelling
from pipeline.methods.dilm.sampling import longest_text
from pipeline.methods.dilm.sequences import Sequences
from pipeline.methods.dilm.teachers import Teachers
from pipeline.methods.dilm.trajectory import Trajectory
from pipeline.methods.loop import Best, loop
from pipeline.parallel import Ranks
from pipeline.randomness import seeded
from pipeline.students.device import pick_device
from pipeline.students.encoder import Student

ADVICE = "a smaller lr, a longer warmup_ratio, or precision: fp32"


def tune(config: Distill, prepared: Prepared, written: Prepared, parent: Path, out: Path) -> Generator:
    """Trains the generator; continues where a killed run left off, bit-equal on the same CPU and thread count.

    Args:
        config: stage 2's config with a ``dilm`` method.
        prepared: the student's data.
        written: the same splits, prepared for the language model.
        parent: the cell's folder that has the generator to start from.
        out: the cell's folder; ``progress.pt`` and ``log.csv`` are written there.

    Raises:
        InputError: a class has too few rows, texts would be longer than the language model reads, the encoder has no
            first-token vectors, or a package is missing.
        StageError: the loss is no longer finite, or the generator writes too few texts; the last good state is saved.
        Stopped: a signal came; the state before or after the step of that moment is saved.

    """
    method = config.method
    assert isinstance(method, DiLM)
    if method.clusters > 1 or method.teachers.choose == "k_centres":
        check_pooling(method.pooling, prepared)
    device = pick_device(config.runtime)
    generator = Generator.load(parent / "generator", len(prepared.classes), device)
    student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], device)
    longest = longest_text(generator, written, method.sampling, len(config.source.task.text))
    real = generator.sequences(written.split("train"))
    run = Tuning(config, prepared, student, generator, real, longest)
    loop(run, lambda _: {}, Checkpoint(out, config.runtime.save_seconds), advice=ADVICE)
    return run.optimisation.finished()


class Tuning:
    """The generator, its optimiser and the pool: all that a resumed run needs.

    The student follows from (seed, step).

    Attributes:
        pool: the texts of the moment; ``None`` before the first update.
        longest: tokens of a text in it, at most.

    """

    pool: TextPool | None = None

    def __init__(
        self,
        config: Distill,
        prepared: Prepared,
        student: Student,
        generator: Generator,
        real: Sequences,
        longest: int,
    ) -> None:
        assert isinstance(config.method, DiLM)
        self.config, self.method, self.seed = config, config.method, config.seed
        self.prepared, self.student, self.generator = prepared, student, generator
        self.real, self.longest = real, longest
        method, self.train = self.method, prepared.split("train")
        self.classes = len(prepared.classes)
        self.teachers = Teachers(config, prepared, self.train, student)
        self.trajectory = Trajectory(method, student, self.train, self.classes, self.seed)
        self.names = matched_names(student.initial(self.seed, 0), student.body, method.gradients)
        self.optimisation = Optimisation(generator, method, self.seed)
        self.order = TrainingOrder(real.lengths.numpy(), method.lm_batch_size, self.seed)
        self.step, self.steps, self.epoch_steps = 0, method.steps, method.updates * method.pool.every
        self.best, self.ranks = Best(0, math.inf, None, None, {}), Ranks()

    @property
    def validates(self) -> bool:
        """Never: the last state is kept, as published."""
        return False

    @property
    def learning_rate(self) -> float:
        """Of the generator's optimiser."""
        return self.optimisation.learning_rate

    def advance(self) -> tuple[float, float]:
        """One step of the generator: the loss, the length of its gradient before clipping.

        Raises:
            FloatingPointError: one of them is not finite; nothing was changed.
            StageError: the generator writes too few usable texts for a new pool.
            Stopped: a signal came while a pool was written or a student trained; nothing was changed.

        """
        if self.step % self.epoch_steps == 0:
            self.pool = written_pool(self.config, self.generator, self.student, self.prepared, self.longest, self.step)
        theta = self.trajectory.at(self.step)
        with seeded(self.seed, "dropout of the generator", self.step):
            found = self.optimisation.step(lambda: self.backward(theta))
        self.step += 1
        return found

    def backward(self, theta: dict[str, Tensor]) -> Tensor:
        """(1 − λ) · matching, a mean over classes, + λ · language modelling; leaves its gradient in the generator."""
        method, share = self.method, (1 - self.method.lm_weight) / self.classes
        total = torch.zeros(())
        for label in range(self.classes):
            total += share * self._of_class(theta, label, share)
        if method.lm_weight:
            rows = torch.from_numpy(self.order.at(self.step))
            total += method.lm_weight * language_modelling(self.generator, self.real, rows, method.lm_weight)
        return total

    def _of_class(self, theta: dict[str, Tensor], label: int, share: float) -> Tensor:
        """The matching loss of one class; leaves ``share`` times its gradient in the generator."""
        method, pool, student = self.method, self.pool, self.student
        assert pool is not None
        real = self.train.batch(self.teachers.at(self.step, label), student.device)
        teacher, _ = gradient(student, theta, self.names, real)
        rows = pool.batch(label, method.shots, method.clusters, self.step % self.epoch_steps)
        each = self._losses(pool.sequences, rows)
        of_rows = weights(each, method.temperature)
        loss, slope = match(student, theta, self.names, teacher, pool.split.batch(rows, student.device), of_rows)
        of_rows.backward(share * slope)
        return loss

    def _losses(self, sequences: Sequences, rows: np.ndarray[Any, Any]) -> Tensor:
        """[rows] the generator's loss of texts."""
        generator = self.generator
        sums = generator.losses(*sequences.batch(rows, generator.pad, generator.device))
        return normalised(sums, sequences.lengths[torch.from_numpy(rows)].to(sums.device), self.method.normalise)

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        pool = {} if self.pool is None else {"pool": self.pool.state()}
        return {"step": self.step, **pool, **self.teachers.state(), **self.optimisation.state(), **self.conditions()}

    def conditions(self) -> dict[str, Any]:
        """What changes the rounding and nothing else."""
        return {"threads": torch.get_num_threads()}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts a saved state back."""
        self.step = state["step"]
        self.optimisation.restore(state)
        self.teachers.restore(state)
        if "pool" in state:
            fields = len(self.config.source.task.text)
            self.pool = TextPool.restored(state["pool"], self.generator, fields, self.prepared)
