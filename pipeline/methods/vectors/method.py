"""Distillation in the space of frozen sentence vectors: Full-BPTT, T-BPTT, RaT-BPTT and Boost-DD.

"Embarrassingly Simple Dataset Distillation" (Feng, Vedantam and Kempe, ICLR 2024), on texts. One step of the outer loop
(:mod:`~pipeline.methods.vectors.run`) is: draw fresh students, train them N steps without a graph and W steps with one,
measure their cross-entropy on real vectors, and move the set against the gradient of that through the W steps.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.config import BPTT, Distill, VectorValidation
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.errors import InputError
from pipeline.methods.checkpoint import Checkpoint
from pipeline.methods.imbalance import check_classes, measured
from pipeline.methods.loop import Best, check_selected, check_validation, loop
from pipeline.methods.outer import Estimation
from pipeline.methods.vectors.run import VectorRun, trained
from pipeline.methods.vectors.set import LearnedVectors
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.vector_training import score
from pipeline.students.vectors import VectorStudent

ADVICE = "a smaller learning_rate or outer.lr, a longer outer.warmup_ratio, or a shorter window"


def check(method: BPTT, manifest: dict[str, Any]) -> None:
    """Refuses what this task cannot do, before anything is computed.

    Raises:
        InputError: more classes per batch than there are, dev has fewer rows than classes, or see
            :func:`~pipeline.methods.imbalance.check_classes`.

    """
    check_classes(method, manifest)
    check_validation(method.validation, manifest)
    C = len(manifest["classes"])
    if method.classes_per_batch is not None and method.classes_per_batch > C:
        raise InputError(f"classes_per_batch: {method.classes_per_batch} of {C} classes; give at most {C}")


def distill(config: Distill, prepared: Prepared, out: Path) -> DistilledSet:
    """Learns the set; continues where a killed run left off, bit-equal on the same CPU and thread count.

    Args:
        config: stage 2's config with a ``bptt`` method.
        prepared: stage 1's output, with vectors.
        out: the cell's folder; ``progress.pt`` and ``log.csv`` are written there.

    Returns:
        The selected set; ``about["selection"]`` says how and with what score, ``about["stages"]`` the same of every
        stage of a boosted one.

    Raises:
        InputError: see :func:`check`.
        StageError: the outer loss is no longer finite; the last good state is saved.
        Stopped: a signal came; the state after the outer step of that moment is saved.

    """
    method = config.method
    assert isinstance(method, BPTT)
    check(method, prepared.manifest)
    train, device = prepared.vectors("train"), pick_device(config.runtime)
    student = load_student(method, prepared, device)
    run = VectorRun(
        method, train, len(prepared.classes), student, config.seed, Estimation.of(method, config.runtime, student)
    )
    run.ranks.say(f"hypergradient by {run.estimator.name}: {run.estimator.why}")
    loop(
        run,
        Validator(method.validation, method.steps, prepared, student, config.seed),
        Checkpoint(out, config.runtime.save_seconds),
        advice=ADVICE,
    )
    best = run.best
    check_selected(run, method.validation, prepared.manifest, ADVICE)
    stages = [*run.selected, best]
    described = [
        {"shots": shots, **state.describe(method.validation)}
        for shots, state in zip(method.stages, stages, strict=True)
    ]
    about: dict[str, Any] = {"selection": best.describe(method.validation)}
    if method.boost is not None:
        about["stages"] = described
    made = LearnedVectors(method, len(prepared.classes), best.tensors).view()
    return replace(made.detached(), about=about)


def load_student(
    method: BPTT, prepared: Prepared, device: torch.device, dtype: torch.dtype = torch.float32
) -> VectorStudent:
    """The student as the method trains it."""
    features = prepared.vectors("train").vectors.shape[1]
    return VectorStudent(method.student, features, len(prepared.classes), device, dtype)


class Validator:
    """Scores the current set with fresh students, all trained at once, and keeps the best state.

    The same initialisations are drawn every time, so that two states are compared on equal draws.
    """

    def __init__(
        self, config: VectorValidation, steps: int, prepared: Prepared, student: VectorStudent, seed: int
    ) -> None:
        self.config, self.student, self.seed = config, student, derive(seed, "validation")
        self.steps = config.steps or steps
        if config.split != "none":
            split = prepared.split(config.split)
            rows = split.stratified_rows(config.examples or len(split), seed, "validation rows")
            part = prepared.vectors(config.split).select(torch.from_numpy(rows))
            self.vectors, self.labels = part.vectors.to(student.device), part.labels

    def __call__(self, run: VectorRun) -> dict[str, float]:
        """Mean loss, accuracy and what ``by`` compares of the current set; ``run.best`` is the better one."""
        config = self.config
        if config.split == "none":
            run.improved(Best(run.step, math.inf, None, None, run.learned.state()))
            return {}
        theta = trained(run.learned, self.student, self.seed, config.initialisations, self.steps)
        logits = score(self.student, theta, self.vectors)
        loss, accuracy, compared = (
            sum(measured(by, member, self.labels) for member in logits) / len(logits)
            for by in ("loss", "accuracy", config.by)
        )
        merit = compared if config.lower_is_better else -compared
        better = merit < run.best.score
        run.improved(Best(run.step, merit, loss, accuracy, run.learned.state()) if better else None)
        return {"validation_loss": loss, "validation_accuracy": accuracy, "validation_score": compared}
