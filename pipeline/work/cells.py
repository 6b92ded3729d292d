"""How much computing a cell is: FLOPs by kind, from its config and the lengths of the sentences that it reads.

Nothing is run: all that a cell does follows from its config and its prepared task (:mod:`pipeline.students.flops` has
the formula). What an interrupted attempt did twice is not in it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoModelForSequenceClassification

from pipeline.config import (
    BPTT,
    DDAL,
    LM,
    Beginning,
    ByScores,
    ByVectors,
    Composed,
    DiLM,
    Distill,
    Evaluate,
    FineTune,
    FullData,
    Generated,
    GradientSteps,
    Project,
    Prompted,
    Rank,
    SmallSet,
    Text,
    Training,
)
from pipeline.data.prepared import Prepared
from pipeline.randomness import derive, seeded
from pipeline.students import flops
from pipeline.students.flops import Lengths, Sizes
from pipeline.students.postnorm import structure_of
from pipeline.work import language as language_work
from pipeline.work import prompts as prompt_work
from pipeline.work import text as text_work
from pipeline.work import vectors as vector_work
from pipeline.work.lengths import lengths_in, lengths_of_part, lengths_of_task, lengths_read, split_of


@dataclass(frozen=True)
class Work:
    """FLOPs by kind; they run at different rates.

    Attributes:
        outer: outer steps of distillation: the hypergradient, with its inner loop and its real batches.
        inner: training on synthetic samples.
        training: AdamW on real text.
        scoring: forward passes over real text.

    """

    outer: float = 0.0
    inner: float = 0.0
    training: float = 0.0
    scoring: float = 0.0

    @property
    def total(self) -> float:
        """All kinds."""
        return self.outer + self.inner + self.training + self.scoring

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __mul__(self, factor: float) -> Work:
        return Work(*(getattr(self, field.name) * factor for field in fields(self)))


def of_distill(config: Distill, folder: Path) -> Work:
    """What making one set takes; ``folder`` is the prepared task's."""
    prepared, method = Prepared(folder), config.method
    if isinstance(method, DDAL):
        return _ddal(config, method, prepared)
    if isinstance(method, Text):
        return _text(config, method, prepared)
    if isinstance(method, BPTT):
        return Work(**vector_work.of_bptt(config, prepared.manifest))
    if isinstance(method, LM | DiLM | Generated):
        per_row = 0.0 if isinstance(method, LM) else of_row(folder)
        return Work(**language_work.of_distill(config, folder, per_row))
    if not isinstance(method, ByVectors | ByScores | Rank):
        return Work()
    lengths = lengths_in(folder, "train")
    share = 1.0 if method.candidates is None else min(1.0, method.candidates / len(lengths))
    if isinstance(method, Rank):
        return Work(scoring=share * len(lengths) * language_work.per_text(config, folder))
    if isinstance(method, ByVectors):
        if method.reads(config.source.vectors):
            return Work()
        labels = split_of(folder, "train").labels.numpy()
        by_class = [lengths[labels == label] for label in range(len(prepared.classes))]
        work = Work(scoring=share * sum(scored(folder, found, fused=False) for found in by_class))
        return work + (Work() if method.training is None else _adamw(method.training, folder, lengths))
    assert isinstance(method, ByScores)
    scoring = Work(scoring=share * scored(folder, lengths, fused=has_passes(folder)))
    return (_adamw(method.training, folder, lengths) + scoring) * method.trainings


def of_training(config: Evaluate, folder: Path) -> Work:
    """What one initialisation's training takes, with the scoring that selects an epoch."""
    if vector_work.counted(config):
        return Work(**vector_work.of_training(config, Prepared(folder).manifest))
    method, protocol = config.source.method, config.protocol
    fused = has_passes(folder)
    if isinstance(method, Composed):
        return _of_parts(config, method, folder)
    if isinstance(protocol, GradientSteps):
        if isinstance(method, DDAL):
            return Work(inner=inner(config.source, method, folder))
        step = flops.training(sizes_of(folder), _learned_from(config, folder), fused=fused)
        return Work(training=len(protocol.step_sizes or ()) * step)
    if not isinstance(protocol, FineTune):
        return Work()
    work = _adamw(protocol, folder, _learned_from(config, folder), text=not isinstance(method, DDAL))
    if protocol.select is not None and protocol.epochs is not None:
        select, seed = protocol.select, derive(config.seed, "evaluation")
        dev = lengths_of_part(folder, select.split, select.examples, seed, "rows that select an epoch")
        work += Work(scoring=protocol.epochs * scored(folder, dev, fused=fused))
    return work


def _learned_from(config: Evaluate, folder: Path) -> Lengths:
    """Tokens of the samples of the set, or of its first ones."""
    lengths = samples_of(config.source, folder)
    if config.prefix is None:
        return lengths
    return _at_even_ranks(lengths, config.prefix * _classes(folder, config.source))


def _of_parts(config: Evaluate, method: Composed, folder: Path) -> Work:
    """One training on a composed set: the steps of each part, or the recipe in each phase."""
    if isinstance(config.protocol, GradientSteps) and config.protocol.step_sizes is None:
        made = [(part.of, part.of.method) for part in method.parts]
        return sum((Work(inner=inner(one, of, folder)) for one, of in made if isinstance(of, DDAL)), Work())
    work = Work()
    for phase in sorted({part.phase for part in method.parts}):
        parts = [part for part in method.parts if part.phase == phase]
        lengths = np.concatenate([samples_of(part.of, folder) for part in parts for _ in range(part.repeat)])
        if isinstance(config.protocol, FineTune):
            work += _adamw(config.protocol, folder, lengths, text=method.makes == "text")
        elif isinstance(config.protocol, GradientSteps):
            step = flops.training(sizes_of(folder), lengths, fused=has_passes(folder))
            work += Work(training=len(config.protocol.step_sizes or ()) * step)
    return work


def of_scoring(config: Evaluate, folder: Path) -> Work:
    """What scoring one initialisation on all of the splits takes."""
    if vector_work.counted(config):
        return Work(**vector_work.of_scoring(config, Prepared(folder).manifest))
    if isinstance(config.protocol, Prompted):
        return Work(**prompt_work.of_scoring(config, folder))
    if not isinstance(config.protocol, GradientSteps | FineTune):
        return Work()
    fused = has_passes(folder)
    lengths = [lengths_of_task(folder, name, config.prepared.task.name) for name in config.splits]
    return Work(scoring=sum(scored(folder, found, fused=fused) for found in lengths))


def of_evaluate(config: Evaluate, folder: Path) -> Work:
    """What a whole evaluate cell takes."""
    return (of_training(config, folder) + of_scoring(config, folder)) * config.runs


def validations(method: DDAL | Text, steps: int, epoch_steps: int) -> int:
    """How often the set is scored while it is distilled."""
    if method.validation.split == "none":
        return 0
    every = method.validation.every or epoch_steps
    return steps // every + (steps % every > 0)


def estimator(method: DDAL | Text, folder: Path) -> flops.Way:
    """The estimator that is used, ``auto`` resolved as :func:`pipeline.bilevel.choose` does."""
    if method.estimator in ("unroll", "adjoint"):
        return method.estimator
    if has_passes(folder) and not method.dropout and method.precision in ("fp32", "tf32"):
        return "fused"
    return "unroll" if min(method.steps, method.window or method.steps) <= 5 else "adjoint"


def _ddal(config: Distill, method: DDAL, prepared: Prepared) -> Work:
    sizes, way, lengths = (
        sizes_of(prepared.folder),
        estimator(method, prepared.folder),
        lengths_in(prepared.folder, "train"),
    )
    samples = len(prepared.classes) * method.batch_shots
    steps = method.outer.planned_steps(len(lengths))
    one = flops.hypergradient(
        sizes, samples, method.sequence_length, method.steps, way,
        window=method.window, rows=method.attention_labels == "all",
    )  # fmt: skip
    read = lengths_read(prepared.folder, method.outer.batch_size, config.seed, method.outer.bucket_by_length,
                 steps * method.outer.real_batches, padded=way != "fused")  # fmt: skip
    outer = method.draws * (steps * one + flops.training(sizes, read, fused=way == "fused"))
    times = validations(method, steps, method.outer.epoch_steps(len(lengths))) * method.validation.initialisations
    scoring = 0.0
    if times:
        split = method.validation.split
        seen = lengths_of_part(prepared.folder, split, method.validation.examples, config.seed, "validation rows")
        scoring = times * scored(prepared.folder, seen, fused=has_passes(prepared.folder))
    return Work(outer=outer, inner=times * inner(config, method, prepared.folder), scoring=scoring)


def _text(config: Distill, method: Text, prepared: Prepared) -> Work:
    """Proposals and trainings are each encoder's; texts are taken as equally long in all tokens."""
    folder = prepared.folder
    work = _of_student(config, method, folder, estimator(method, folder))
    for one in text_work.others_of(config, folder):
        work += _of_student(config, method, one, text_work.beside(method, estimator(method, one)))
    if method.asks_language_model:
        steps = method.outer.planned_steps(len(lengths_in(folder, "train")))
        tokens = text_work.asked(method, _classes(folder, config), steps)
        work += Work(scoring=tokens * language_work.products_per_token(language_work.written_for(config, folder)))
    return work


def _of_student(config: Distill, method: Text, folder: Path, way: flops.Way) -> Work:
    outer = method.outer
    rows = len(lengths_in(folder, "train"))
    steps = outer.planned_steps(rows)
    read = lengths_read(folder, outer.batch_size, config.seed, outer.bucket_by_length, steps * outer.real_batches,
                 padded=way != "fused")  # fmt: skip
    times, fused = validations(method, steps, outer.epoch_steps(rows)), has_passes(folder)
    work = Work(**text_work.of_text(method, sizes_of(folder), way, read, steps, times, fused=fused))
    if not times:
        return work
    seen = lengths_of_part(folder, method.validation.split, method.validation.examples, config.seed, "validation rows")
    return work + Work(scoring=times * method.validation.initialisations * scored(folder, seen, fused=fused))


def inner(config: Distill, method: DDAL, folder: Path) -> float:
    """FLOPs of one training on the set, T steps; the last layer computes one row where no labels ask for all."""
    plain = not method.dropout and method.precision in ("fp32", "tf32") and method.attention_labels != "all"
    synthetic = [method.sequence_length] * (_classes(folder, config) * method.batch_shots)
    return method.steps * flops.training(sizes_of(folder), synthetic, fused=has_passes(folder) and plain)


def scored(folder: Path, lengths: Lengths, *, fused: bool) -> float:
    """FLOPs of scoring rows; by the library they are padded to the longest of 64 of their length, in multiples of 8."""
    if fused:
        return flops.forward(sizes_of(folder), lengths, fused=True)
    ordered = np.sort(np.asarray(lengths))
    parts = [ordered[start : start + 64] for start in range(0, len(ordered), 64)]
    padded = [np.full_like(part, -(-part.max() // 8) * 8) for part in parts]
    return flops.forward(sizes_of(folder), np.concatenate(padded or [ordered]), fused=False)


def _adamw(training: Training, folder: Path, lengths: Lengths, *, text: bool = True) -> Work:
    """Batches hold each sample equally often, up to the last ones of an epoch; the passes train on ``text`` alone."""
    fused = has_passes(folder) and not training.dropout and text
    share = training.steps_on(len(lengths)) * min(training.batch_size, len(lengths)) / len(lengths)
    return Work(training=share * flops.training(sizes_of(folder), lengths, fused=fused))


def samples_of(config: Distill, folder: Path) -> Lengths:
    """Tokens of every sample of a set; of a few real sentences, typical ones: those at even ranks by length."""
    method = config.method
    lengths = lengths_of_task(folder, "train", config.source.task.name)
    if isinstance(method, FullData):
        return lengths
    if isinstance(method, Project):
        assert config.parent is not None
        return samples_of(config.parent, folder)
    if isinstance(method, Composed):
        return np.concatenate([samples_of(part.of, folder) for part in method.parts for _ in range(part.repeat)])
    C = _classes(folder, config)
    if isinstance(method, DDAL | Beginning):
        return [method.sequence_length] * (method.shots * C)
    return _at_even_ranks(lengths, method.shots * C if isinstance(method, SmallSet) else 1)


def _at_even_ranks(lengths: Lengths, count: int) -> Lengths:
    ranks = (np.arange(count) + 0.5) / count * len(lengths)
    return np.sort(np.asarray(lengths))[ranks.astype(np.int64)]


def _classes(folder: Path, config: Distill) -> int:
    columns = Prepared(folder).classes_of(config.source.task.name)
    return int(columns.stop - columns.start)


def of_row(folder: Path) -> float:
    """FLOPs of scoring a training row, their mean."""
    lengths = lengths_in(folder, "train")
    lengths = np.sort(lengths)[:: max(1, len(lengths) // 4096)]
    return scored(folder, lengths, fused=False) / len(lengths)


def sizes_of(folder: Path) -> Sizes:
    """The encoder's sizes, from its config."""
    return _encoder(folder)[0]


def has_passes(folder: Path) -> bool:
    """Whether the encoder is one that the hand-derived passes cover."""
    return _encoder(folder)[1]


@functools.lru_cache(maxsize=32)
def _encoder(folder: Path) -> tuple[Sizes, bool]:
    prepared = Prepared(folder)
    config: Any = AutoConfig.from_pretrained(prepared.model_folder, local_files_only=True)
    names = ("intermediate_size", "hidden_dim", "d_inner", "n_inner")
    inner = next((getattr(config, name) for name in names if getattr(config, name, None)), 4 * config.hidden_size)
    width = prepared.manifest["embedding_width"]
    sizes = Sizes(
        config.num_hidden_layers, config.hidden_size, inner, config.num_attention_heads, len(prepared.classes), width
    )
    with seeded(0, "sizes"):  # random weights: only their names and shapes are looked at
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    return sizes, not isinstance(structure_of(model), str)
