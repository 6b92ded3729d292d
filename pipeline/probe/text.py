"""Sets of text: outer steps, and a part of a training of a validation."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline import work
from pipeline.config import Distill, Project, Text
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, Recipe, save
from pipeline.methods.text.method import begun
from pipeline.probe.slices import Piece
from pipeline.students.finetune import finetune
from pipeline.students.scoring import score
from pipeline.work.text import others_of

STEPS = 4  # of a training of a validation
ROWS = 512  # of those that it scores


def text_pieces(config: Distill, method: Text, prepared: Prepared, set_: Path) -> list[Piece]:
    """Outer steps, a part of a training of a validation and of its scoring; leaves what they start from."""
    method = method.model_copy(update={"outer": method.outer.model_copy(update={"steps": 100})})
    whole = work.of_distill(config.model_copy(update={"method": method}), prepared.folder)
    run = begun(config, method, prepared, None, [Prepared(one) for one in others_of(config, prepared.folder)])
    text, training = run.learned.text(), method.validation.training
    save(text, set_)
    pieces: list[Piece] = [("outer", run.advance, whole.outer / 100)]
    if method.validation.split == "none":
        return pieces
    learners = [(run.student, text, prepared), *((one.student, one.read(text), one.prepared) for one in run.others)]
    thetas = [student.initial(0, 0) for student, _, _ in learners]
    short = training.model_copy(update={"steps": STEPS, "epochs": None})
    one = method.model_copy(update={"validation": method.validation.model_copy(update={"training": short})})
    tried = work.of_distill(config.model_copy(update={"method": one}), prepared.folder)
    times = work.validations(method, 100, 100) * method.validation.initialisations
    parts = [one.split(method.validation.split).stratified(ROWS, 0, "probe") for _, _, one in learners]
    batches = [part.batches(student.device) for part, (student, _, _) in zip(parts, learners, strict=True)]
    passes = [work.has_passes(one.folder) for _, _, one in learners]
    scored = [
        float(work.scored(one.folder, part.lengths, fused=fused))
        for part, fused, (_, _, one) in zip(parts, passes, learners, strict=True)
    ]

    def train() -> None:
        for theta, (student, made, _) in zip(thetas, learners, strict=True):
            finetune(student, theta, len(made), made.examples, short, 0)

    def ask() -> None:
        for theta, rows, (student, _, _) in zip(thetas, batches, learners, strict=True):
            score(student, theta, rows)

    return [*pieces, ("training", train, tried.training / times), ("scoring", ask, sum(scored))]


def projected(method: Project, prepared: Prepared, config: Distill, set_: Path) -> None:
    """Leaves a set of the shape of a projection, which itself takes seconds."""
    labels = torch.eye(len(prepared.classes)).repeat(method.shots, 1)
    length = int(work.samples_of(config, prepared.folder)[0])
    ids = torch.full((len(labels), length), prepared.tokenizer.unk_token_id or 0)
    save(DistilledSet(labels, labels.argmax(dim=1), Recipe("finetune"), token_ids=ids), set_)
