"""How much computing a language model that writes sets is, by kind: see :mod:`pipeline.work.cells`.

A token takes 2 FLOPs per weight forward and 4 backward (Kaplan et al., 2020); attention itself is not counted, as texts
are short beside the width. Texts that are written count as long as training rows on average.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from pipeline.config import LM, ByCentres, ByHerding, DiLM, Distill, Generated, language_model, language_source
from pipeline.data.prepared import Prepared
from pipeline.store import Store

Kinds = dict[str, float]


def of_distill(config: Distill, folder: Path, per_row: float) -> Kinds:
    """What a cell takes.

    Args:
        config: the cell.
        folder: the prepared task's.
        per_row: FLOPs of the encoder's forward pass over a row, the mean of the training split.

    """
    method, C = config.method, len(Prepared(folder).classes)
    written = written_for(config, folder)
    text = per_text(config, folder)
    if isinstance(method, LM):
        validation = method.validation
        times = 0 if validation.every is None else -(-method.steps // validation.every)
        rows = Prepared(written).manifest["sizes"]["dev"]
        scored = times * min(validation.examples or rows, rows) * C * text
        return {"training": 3 * text * method.batch_size * method.steps, "scoring": scored}
    if isinstance(method, DiLM):
        pools = -(-method.steps // (method.updates * method.pool.every))
        train, teachers = Prepared(folder).manifest["sizes"]["train"], method.teachers
        looked = min(teachers.candidates or train, train) if teachers.choose == "k_centres" else 0
        texts = pools * C * method.pool_size
        return {
            "outer": method.steps * of_step(method, per_row, text, C),
            "scoring": texts * text,
            "inner": per_row * (looked + (texts if method.clusters > 1 else 0)),
        }
    assert isinstance(method, Generated)
    count = C * method.candidates
    looked = isinstance(method.selection, ByCentres | ByHerding)
    return {"scoring": 2 * count * text, "inner": count * per_row * looked}


def of_step(method: DiLM, per_row: float, text: float, classes: int) -> float:
    """One update: the generator on its texts, the student on these (three passes) and on its teachers, its own steps.

    Args:
        method: the method.
        per_row: FLOPs of the student's forward pass over a row.
        text: FLOPs of the generator's forward pass over one text.
        classes: C.

    """
    # the gradient of the head costs no pass of its own; the slope of the weights one forward pass more
    passes = 1.0 if method.gradients == "head" else 3.0
    update = classes * (
        3 * method.shots * text + method.shots * (passes + 1) * per_row + method.teachers.shots * passes * per_row
    )
    extra = 3 * method.lm_batch_size * text if method.lm_weight else 0.0
    student = 3 * method.student_steps * method.student.batch_size * per_row * (method.updates - 1) / method.updates
    return update + extra + student


def written_for(config: Distill, folder: Path) -> Path:
    """The prepared data of the language model at the beginning of a chain; ``folder`` is another's, of that store."""
    return Store.of(folder).cell(language_source(config)).folder


def per_text(config: Distill, folder: Path) -> float:
    """FLOPs of the language model's forward pass over a row of mean length behind a prompt of mean length.

    Args:
        config: a cell whose chain begins with the language model.
        folder: any prepared data of that store.

    """
    model, _ = language_model(config)
    written = written_for(config, folder)
    prepared = Prepared(written)
    prompts = [len(prepared.tokenizer.tokenize(prompt)) for prompt in model.begin or [""]]
    read = float(prepared.split("train").lengths.mean() + 1) + sum(prompts) / len(prompts)
    return products_per_token(written) * read


def products_per_token(written: Path) -> float:
    """FLOPs of its matrix products for one token; ``written`` is the task as prepared for it."""
    prepared = Prepared(written)
    config: Any = AutoConfig.from_pretrained(prepared.model_folder, local_files_only=True)
    weights = prepared.manifest["parameters"]
    if not config.tie_word_embeddings:  # looking up a token's vector is no product
        weights -= config.vocab_size * prepared.manifest["embedding_width"]
    return float(2 * weights)
