"""Cells that train a language model or write with it.

The model is the one that stage 1 keeps, not the trained one, which need not exist yet: it writes longer texts, so that
what is predicted of writing is an upper bound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import work
from pipeline.config import LM, DiLM, Distill, Generated, Rank, language_model
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.distilled import save
from pipeline.methods.coresets.vectors import load_student, vectors_of
from pipeline.methods.dilm.generate import generate_from
from pipeline.methods.dilm.generator import Generator
from pipeline.methods.dilm.pretrain import Pretraining
from pipeline.methods.dilm.sampling import longest_text, write
from pipeline.methods.dilm.tuning import Tuning
from pipeline.probe.slices import Piece
from pipeline.students.device import pick_device
from pipeline.work import language as language_work

TEXTS, ROWS = 32, 256


def language_pieces(config: Distill, prepared: Prepared, set_: Path) -> list[Piece]:
    """Steps of training, some texts, some vectors; leaves a set where the cell makes one."""
    method, C = config.method, len(prepared.classes)
    written = Prepared(language_work.written_for(config, prepared.folder))
    begin = language_model(config)[0].begin
    generator = Generator.fresh(written.model_folder, C, config.seed, pick_device(config.runtime), begin)
    text, rows = language_work.per_text(config, prepared.folder), generator.sequences(written.split("train"))
    if isinstance(method, LM):
        run = Pretraining(method.model_copy(update={"steps": 1000}), generator, rows, config.seed)
        return [("training", run.advance, 3 * text * method.batch_size), _losses(generator, written.split("dev"), text)]
    if isinstance(method, Rank):
        return [_losses(generator, written.split("train"), text)]
    assert isinstance(method, DiLM | Generated)
    fields = len(config.source.task.text)
    longest = longest_text(generator, written, method.sampling, fields)
    sampling = method.sampling.model_copy(update={"batch_size": min(TEXTS, method.sampling.batch_size)})
    student = load_student(config, prepared)
    some, theta = prepared.split("train").stratified(ROWS, 0, "probe"), student.initial(0, 0)
    per_row = work.of_row(prepared.folder)
    found: list[Piece] = [
        ("scoring", lambda: write(generator, TEXTS, fields, sampling, longest, 0, distinct=False), C * TEXTS * text),
        ("inner", lambda: vectors_of(student, theta, some, "first"), len(some) * per_row),
    ]
    if isinstance(method, Generated):
        small = method.model_copy(update={"over_sample": 1, "distinct": False, "sampling": sampling})
        save(generate_from(generator, config.model_copy(update={"method": small}), prepared, longest), set_)
        return found
    tuning = Tuning(_short(config, method, sampling), prepared, student, generator, rows, longest)
    tuning.advance()  # which writes the pool
    return [("outer", tuning.advance, language_work.of_step(method, per_row, text, C)), *found]


def _losses(generator: Generator, split: Split, text: float) -> Piece:
    rows = generator.sequences(split.stratified(ROWS, 0, "probe"))
    return "scoring", lambda: generator.mean_losses(rows), len(rows) * text


def _short(config: Distill, method: DiLM, sampling: Any) -> Distill:
    """The same steps on a pool that is just large enough, with teachers that need no clustering."""
    pool = method.pool.model_copy(update={"size": method.shots, "every": 1000})
    teachers = method.teachers.model_copy(update={"choose": "random"})
    update = {"pool": pool, "teachers": teachers, "sampling": sampling, "steps": 1000}
    return config.model_copy(update={"method": method.model_copy(update=update)})
