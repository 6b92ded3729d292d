"""Sets of text: outer steps, and a part of a training of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline import work
from pipeline.config import Distill, Project, Text
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, Recipe, save
from pipeline.methods.text.method import begun
from pipeline.probe.slices import Piece
from pipeline.students.encoder import Student
from pipeline.students.finetune import finetune
from pipeline.students.scoring import score
from pipeline.work.text import others_of

Learner = tuple[Student, DistilledSet, Prepared]
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
    validated = method.validation.split != "none"
    if not validated and not method.asks_language_model:
        return pieces
    learners = [(run.student, text, prepared), *((one.student, one.read(text), one.prepared) for one in run.others)]
    if not validated:  # the pace of what the language model reads is that of scoring
        return [*pieces, _scoring(learners, "train")]
    short = training.model_copy(update={"steps": STEPS, "epochs": None})
    one = method.model_copy(update={"validation": method.validation.model_copy(update={"training": short})})
    tried = work.of_distill(config.model_copy(update={"method": one}), prepared.folder)
    times = work.validations(method, 100, 100) * method.validation.initialisations
    thetas = [student.initial(0, 0) for student, _, _ in learners]

    def train() -> None:
        for theta, (student, made, _) in zip(thetas, learners, strict=True):
            finetune(student, theta, len(made), made.examples, short, 0)

    return [*pieces, ("training", train, tried.training / times), _scoring(learners, method.validation.split)]


def _scoring(learners: Sequence[Learner], split: str) -> Piece:
    """Some rows of a split, by every student."""
    parts = [one.split(split).stratified(ROWS, 0, "probe") for _, _, one in learners]
    batches = [part.batches(student.device) for part, (student, _, _) in zip(parts, learners, strict=True)]
    thetas = [student.initial(0, 0) for student, _, _ in learners]
    flops = sum(
        float(work.scored(one.folder, part.lengths, fused=work.has_passes(one.folder)))
        for part, (_, _, one) in zip(parts, learners, strict=True)
    )

    def ask() -> None:
        for theta, rows, (student, _, _) in zip(thetas, batches, learners, strict=True):
            score(student, theta, rows)

    return "scoring", ask, flops


def projected(method: Project, prepared: Prepared, config: Distill, set_: Path) -> None:
    """Leaves a set of the shape of a projection, which itself takes seconds."""
    labels = torch.eye(len(prepared.classes)).repeat(method.shots, 1)
    length = int(work.samples_of(config, prepared.folder)[0])
    ids = torch.full((len(labels), length), prepared.tokenizer.unk_token_id or 0)
    save(DistilledSet(labels, labels.argmax(dim=1), Recipe("finetune"), token_ids=ids), set_)
