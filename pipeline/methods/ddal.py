"""Dataset distillation with attention labels (Maekawa, Kobayashi, Funakoshi, Okumura, ACL 2023).

One step of the outer loop (:mod:`~pipeline.methods.outer`) is: draw a fresh classifier, train the student T gradient
steps on the distilled set, measure its cross-entropy on a real batch, and move the set against the gradient of that
through the T steps.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline import stopping
from pipeline.bilevel import descend
from pipeline.config import DDAL, Distill, Text, Validation
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.errors import InputError
from pipeline.methods.checkpoint import Checkpoint
from pipeline.methods.imbalance import check_classes, measured
from pipeline.methods.learned import LearnedSet, initial_tensors, sample_classes
from pipeline.methods.loop import Best, check_selected, check_validation, leave_if_asked, loop
from pipeline.methods.outer import Estimation, OuterState
from pipeline.methods.text.set import LearnedText
from pipeline.parallel import Ranks
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.encoder import Parameters, Student
from pipeline.students.scoring import score

SCORES = ("validation_loss", "validation_accuracy", "validation_score")
ADVICE = "a smaller learning_rate or outer.lr, a longer outer.warmup_ratio, or precision: fp32"


def check(method: DDAL, manifest: dict[str, Any]) -> None:
    """Refuses what this encoder or this task cannot do, before anything is computed.

    Raises:
        InputError: the sequence is longer than the encoder's usable positions, the classifier does not read the first
            token, dev has fewer rows than classes, or see :func:`~pipeline.methods.imbalance.check_classes`.

    """
    check_classes(method, manifest)
    positions = manifest["positions"]
    if positions is not None and method.sequence_length > positions:
        raise InputError(
            f"sequence_length: {method.sequence_length} is more than the {positions} usable positions of "
            f"{manifest['model']['name']}; give at most {positions}"
        )
    if not manifest["reads_first_token"]:
        raise InputError(
            f"{manifest['architecture']} does not classify by its first token, so it cannot be a student of ddal; "
            f"give an encoder such as BERT, or evaluate with {{name: finetune}}"
        )
    check_validation(method.validation, manifest)


def distill(
    config: Distill, prepared: Prepared, out: Path, ranks: Ranks | None = None, parent: Path | None = None
) -> DistilledSet:
    """Learns the set; continues where a killed run left off, bit-equal on the same CPU and thread count.

    Args:
        config: stage 2's config with a ``ddal`` method.
        prepared: stage 1's output.
        out: the cell's folder; ``progress.pt`` and ``log.csv`` are written there.
        ranks: the processes that do this together, all with the same arguments; the first one writes.
        parent: the folder of the cell whose set this one starts from.

    Returns:
        The selected set; ``about["selection"]`` says how and with what score.

    Raises:
        InputError: see :func:`check`.
        StageError: the outer loss is no longer finite; the last good state is saved. Or no validation had a finite
            loss, or another rank failed.
        Stopped: a signal came; the state after the outer step of that moment is saved.

    """
    ranks = ranks or Ranks()
    method = config.method
    assert isinstance(method, DDAL)
    check(method, prepared.manifest)
    device = pick_device(config.runtime)
    if method.precision == "tf32" and device.type != "cuda":
        raise InputError(f"precision: 'tf32' needs a CUDA device, not {device.type}; use fp32")
    student = load_student(method, prepared, device)
    C, of_samples = len(prepared.classes), sample_classes(method, prepared.manifest)
    start = None if method.warm_start is None else Path(method.warm_start.path)
    start = start if parent is None else parent / "distilled.h5"
    learned = LearnedSet(method, C, initial_tensors(method, prepared, student, config.seed, start), of_samples)
    estimator = Estimation.of(method, config.runtime, student)
    ranks.say(f"hypergradient by {estimator.name}: {estimator.why}")
    run = OuterState(method, learned, student, prepared.split("train"), config.seed, estimator, ranks)
    validate = Validator(method.validation, prepared, student, config.seed, ranks)
    checkpoint = Checkpoint(out, config.runtime.save_seconds, writes=ranks.first)
    loop(run, validate, checkpoint, advice=ADVICE)
    check_selected(run, method.validation, prepared.manifest, ADVICE)
    selected = LearnedSet(method, C, run.best.tensors, of_samples).view()
    return replace(selected.detached(), about={"selection": run.best.describe(method.validation)})


def load_student(method: DDAL | Text, prepared: Prepared, device: torch.device) -> Student:
    """The student as the method trains it."""
    return Student.load(
        prepared.model_folder,
        prepared.manifest["fresh_parameters"],
        device,
        dropout=method.dropout,
        precision=method.precision,
        outer_precision=method.outer_precision,
    )


class Validator:
    """Scores the current set with fresh students and keeps the best state.

    Every initialisation sees all the validation rows, and the same initialisations are drawn every time: two states
    are compared on equal draws (the public code shows each draw only a slice of the split). Several ranks divide the
    initialisations and all know every score, so that they agree on the best state.
    """

    def __init__(self, config: Validation, prepared: Prepared, student: Student, seed: int, ranks: Ranks) -> None:
        self.config, self.student, self.seed, self.ranks = config, student, derive(seed, "validation"), ranks
        if config.split != "none":
            split = prepared.split(config.split)
            self.split = split.stratified(config.examples or len(split), seed, "validation rows")
            self.batches = self.split.batches(student.device)

    def __call__(self, run: OuterState) -> dict[str, float]:
        """Mean loss, accuracy and what ``by`` compares of the current set; replaces ``run.best`` where it is better.

        Raises:
            Stopped: a signal came; nothing was changed.

        """
        if self.config.split == "none":
            run.best = Best(run.step, math.inf, None, None, run.learned.state())
            return {}
        found = self.scored(self.made(run.learned))
        compared = found["validation_score"]
        merit = compared if self.config.lower_is_better else -compared
        if merit < run.best.score:
            loss, accuracy = found["validation_loss"], found["validation_accuracy"]
            run.best = Best(run.step, merit, loss, accuracy, run.learned.state())
        return found

    def scored(self, distilled: DistilledSet) -> dict[str, float]:
        """What :meth:`__call__` returns, of a set.

        Raises:
            Stopped: a signal came.

        """
        scores = torch.zeros(3, self.config.initialisations, dtype=torch.float64)
        for index in range(self.ranks.rank, self.config.initialisations, self.ranks.size):
            if stopping.requested() is not None:
                break  # the sum tells the other ranks
            theta_T = self.trained(distilled, index)
            logits = score(self.student, theta_T, self.batches)
            for row, by in enumerate(("loss", "accuracy", self.config.by)):
                scores[row, index] = measured(by, logits, self.split.labels)
        self.ranks.sum_([scores])
        leave_if_asked(self.ranks)
        return dict(zip(SCORES, (sum(values) / len(values) for values in scores.tolist()), strict=True))

    def made(self, learned: LearnedSet | LearnedText) -> DistilledSet:
        """The set that is scored."""
        return learned.view().detached()

    def trained(self, distilled: DistilledSet, index: int) -> Parameters:
        """θ_T of one student."""
        theta_0 = self.student.initial(self.seed, index)
        inner = distilled.inner_batches(self.seed, index)
        return descend(
            self.student,
            theta_0,
            inner,
            optimiser=distilled.recipe.optimiser,
            dropping=lambda step: self.student.dropping(self.seed, index, step),
        )
