"""Cells on frozen vectors."""

from __future__ import annotations

from pathlib import Path

from torch.nn import functional as F

from pipeline.config import BPTT, Distill, Evaluate, OnVectors
from pipeline.data.prepared import Prepared
from pipeline.distilled import save
from pipeline.methods.outer import Estimation
from pipeline.methods.vectors.method import load_student
from pipeline.methods.vectors.run import VectorRun, trained
from pipeline.probe.slices import Piece
from pipeline.students.device import pick_device
from pipeline.students.vector_training import Samples, learn, score
from pipeline.students.vectors import VectorStudent
from pipeline.work import vectors as vector_work

STEPS = 20  # of a training


def distill_pieces(config: Distill, method: BPTT, prepared: Prepared, set_: Path) -> list[Piece]:
    """Outer steps, one training of a validation and its scoring; of a boosted set, those of its last stage."""
    large = method.model_copy(update={"boost": None, "outer": method.outer.model_copy(update={"steps": 1000})})
    student = load_student(large, prepared, pick_device(config.runtime))
    train, C = prepared.vectors("train"), len(prepared.classes)
    run = VectorRun(large, train, C, student, config.seed, Estimation.of(large, config.runtime, student))
    save(run.learned.view().detached(), set_)
    whole = vector_work.of_bptt(config.model_copy(update={"method": large}), prepared.manifest)
    one = vector_work.forward(large.student, prepared.manifest)
    in_step = (large.classes_per_batch or C) * (large.batch_shots or large.shots)
    rows = train.vectors[:4096].to(student.device)
    theta = student.initial(0, [0])
    return [
        ("outer", run.advance, whole["outer"] / 1000),
        ("inner", lambda: trained(run.learned, student, 0, 1, STEPS), STEPS * in_step * one.training),
        ("scoring", lambda: score(student, theta, rows), len(rows) * one.total),
    ]


def evaluate_pieces(config: Evaluate, recipe: OnVectors, prepared: Prepared) -> list[Piece]:
    """A part of a training of as many students as train at once, and scoring."""
    assert config.student is not None
    train, C = prepared.vectors("train"), len(prepared.classes)
    count = len(train) if config.shots is None else min(config.shots * C, len(train))
    device = pick_device(config.runtime)
    samples = Samples(train.vectors[:count], F.one_hot(train.labels[:count], C).float()).to(device)
    student = VectorStudent(config.student, train.vectors.shape[1], C, device)
    members = range(min(config.initialisations, recipe.together))
    one = vector_work.forward(config.student, prepared.manifest)
    rows = train.vectors[:4096].to(device)
    theta = student.initial(0, members)
    steps = min(STEPS, recipe.steps_on(count))
    each = len(members) * steps * recipe.batch_of(count) * one.training
    return [
        ("inner", lambda: list(learn(student, samples, recipe, 0, members, (steps,))), each),
        ("scoring", lambda: score(student, theta, rows), len(members) * len(rows) * one.total),
    ]
