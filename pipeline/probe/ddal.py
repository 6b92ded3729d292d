"""Learned embeddings: outer steps, the inner loop, a part of a validation."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline import work
from pipeline.bilevel import descend
from pipeline.config import DDAL, Distill
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Batch, Split
from pipeline.distilled import DistilledSet, save
from pipeline.methods.ddal import load_student
from pipeline.methods.learned import LearnedSet, initial_tensors
from pipeline.methods.outer import Estimation, OuterState
from pipeline.probe.slices import Slice
from pipeline.students.device import pick_device
from pipeline.students.encoder import Parameters, Student


def probe_ddal(config: Distill, method: DDAL, prepared: Prepared, found: Slice, set_: Path) -> None:
    """Outer steps, the largest one among them, and a part of a validation; leaves a set of that shape."""
    device = pick_device(config.runtime)
    student = load_student(method, prepared, device)
    learned = LearnedSet(method, len(prepared.classes), initial_tensors(method, prepared, student, config.seed))
    estimation = Estimation.of(method, config.runtime, student)
    train = prepared.split("train")
    run = OuterState(method, learned, student, train, config.seed, estimation)
    batches = _validated(method, prepared, student)
    found.begun()

    def flops(steps: int) -> float:
        outer = method.outer.model_copy(update={"steps": steps})
        short = config.model_copy(update={"method": method.model_copy(update={"outer": outer})})
        return work.of_distill(short, prepared.folder).outer

    found.repeat("outer", run.advance, flops)
    run.step = _longest(run)
    run.advance()  # for its memory
    made = run.learned.view().detached()
    if batches is not None:
        each = work.inner(config, method, prepared.folder)
        found.repeat("inner", lambda: inner(student, student.initial(0, 0), made), lambda n: n * each)
        found.scoring(student, student.initial(0, 0), batches)
    save(made, set_)


def inner(student: Student, theta: Parameters, distilled: DistilledSet) -> Parameters:
    """θ_T after the set's own steps."""
    steps = distilled.inner_batches(0, 0)
    optimiser = distilled.recipe.optimiser
    return descend(student, theta, steps, optimiser=optimiser, dropping=lambda step: student.dropping(0, 0, step))


def _longest(run: OuterState) -> int:
    """The step of the first epoch that reads the largest batch."""
    lengths, count = run.order.lengths, run.method.outer.real_batches
    sizes = [int(lengths[run.order.at(number)].max()) for number in range(run.epoch_steps * count)]
    return max(range(len(sizes)), key=sizes.__getitem__) // count


def _validated(method: DDAL, prepared: Prepared, student: Student) -> list[tuple[torch.Tensor, Batch]] | None:
    if method.validation.split == "none":
        return None
    split: Split = prepared.split(method.validation.split)
    return split.stratified(method.validation.examples or len(split), 0, "validation rows").batches(student.device)
