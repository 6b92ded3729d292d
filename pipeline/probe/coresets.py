"""Coresets: a part of what ranks the rows."""

from __future__ import annotations

from typing import Any

import torch

from pipeline import work
from pipeline.config import ByScores, ByVectors, Distill
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Batch, Split
from pipeline.methods.coresets.candidates import distinct
from pipeline.methods.coresets.vectors import load_student
from pipeline.probe.slices import BATCHES, Slice
from pipeline.students.encoder import Student


def probe_coreset(config: Distill, method: ByVectors | ByScores, prepared: Prepared, found: Slice) -> None:
    """A part of the training and of the vectors or scores that rows are chosen by."""
    train, folder = prepared.split("train"), prepared.folder
    distinct(train)
    student = load_student(config, prepared)
    student.passes()
    found.begun()
    recipe = method.training
    if recipe is not None:
        steps = recipe.steps_on(len(train))
        steps *= method.trainings if isinstance(method, ByScores) else 1
        each = work.of_distill(config, folder).training / steps
        found.training(student, len(train), lambda rows: _one_hot(train, prepared, rows, student), recipe, each)
    batches = train.stratified(64 * BATCHES, 0, "probe").batches(student.device)
    if isinstance(method, ByVectors):
        theta, pooling = student.initial(0, 0), method.pooling
        lengths = torch.cat([batch["attention_mask"].sum(dim=1) for _, batch in batches]).tolist()
        count = float(work.scored(folder, lengths, fused=False))
        found.repeat(
            "scoring", lambda: [student.vectors(theta, batch, pooling) for _, batch in batches], lambda n: n * count
        )
    else:
        found.scoring(student, student.initial(0, 0), batches)


def _one_hot(train: Split, prepared: Prepared, rows: Any, student: Student) -> Batch:
    batch = train.batch(rows.tolist(), student.device)
    return batch | {"labels": torch.nn.functional.one_hot(batch["labels"], len(prepared.classes)).float()}
