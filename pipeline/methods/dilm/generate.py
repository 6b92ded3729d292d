"""``generated``: a set that a generator writes and a rule selects (DiLM, section 3.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.config import (
    AtRandom,
    ByCentres,
    ByHerding,
    ByRank,
    Distill,
    Generated,
    Herding,
    KCentres,
    Unselected,
)
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.distilled import DistilledSet, Recipe
from pipeline.distilled.text import token_tensors
from pipeline.methods.budgets import Integers, interleaved
from pipeline.methods.coresets.geometry import pick
from pipeline.methods.coresets.vectors import check_pooling, load_student, vectors_of
from pipeline.methods.dilm.generator import Generator
from pipeline.methods.dilm.sampling import Written, longest_text, write
from pipeline.randomness import numpy_generator
from pipeline.students.device import pick_device


def generate(config: Distill, prepared: Prepared, written: Prepared, parent: Path) -> DistilledSet:
    """Writes candidates and keeps ``shots`` of every class, as token ids of the encoder and as text.

    ``about["texts"]`` has what every sample says; ``about["generated"]`` how many texts were written, left out as
    unusable or repeated, and the generator's mean loss per token of candidates and of what is kept.

    Args:
        config: stage 2's config with a ``generated`` method.
        prepared: the encoder's data.
        written: the same splits, prepared for the language model.
        parent: the cell's folder that has the generator.

    Raises:
        InputError: the encoder has no first-token vectors for the selection, or texts would be longer than the language
            model reads.
        StageError: the generator writes too few usable texts.
        Stopped: a signal came; what was written is lost.

    """
    generator = Generator.load(parent / "generator", len(prepared.classes), pick_device(config.runtime))
    assert isinstance(config.method, Generated)
    longest = longest_text(generator, written, config.method.sampling, len(config.source.task.text))
    return generate_from(generator, config, prepared, longest)


def generate_from(generator: Generator, config: Distill, prepared: Prepared, longest: int) -> DistilledSet:
    """The set by a generator that is in memory; a text has ``longest`` tokens at most."""
    method, C, fields = config.method, len(prepared.classes), len(config.source.task.text)
    assert isinstance(method, Generated)
    if isinstance(method.selection, ByCentres | ByHerding):
        check_pooling(method.selection.pooling, prepared)
    found = write(generator, method.candidates, fields, method.sampling, longest, config.seed, distinct=method.distinct)
    split = found.split(prepared.tokenizer, prepared.manifest["max_length"])
    losses = generator.mean_losses(found.sequences)
    rows = interleaved(selected(config, prepared, generator, found, split))
    label_ids = found.sequences.labels[rows]
    about: dict[str, Any] = {
        "texts": [list(found.texts[row]) for row in rows],
        "generated": {
            "by": None if config.parent is None else config.parent.method.name,
            "candidates": method.candidates,
            "unusable": found.unusable,
            "repeated": found.repeated,
            "loss_of_candidates": float(losses.mean()),
            "loss": float(losses[torch.from_numpy(rows)].mean()),
        },
    }
    encoded = split.rows[rows]
    return DistilledSet(
        labels=F.one_hot(label_ids, C).float(),
        label_ids=label_ids,
        recipe=Recipe("finetune"),
        about=about,
        **token_tensors(encoded),
    )


def selected(config: Distill, prepared: Prepared, generator: Generator, found: Written, split: Split) -> list[Integers]:
    """The positions of what is kept of every class, in the order of choosing."""
    method, C = config.method, len(prepared.classes)
    assert isinstance(method, Generated)
    rule, shots, candidates = method.selection, method.shots, [found.of_class(label) for label in range(C)]
    if isinstance(rule, Unselected):
        return [rows[:shots] for rows in candidates]
    if isinstance(rule, AtRandom):
        draws = (numpy_generator(config.seed, "selection", label) for label in range(C))
        return [draw.permutation(rows)[:shots] for draw, rows in zip(draws, candidates, strict=True)]
    if isinstance(rule, ByRank):
        losses = generator.mean_losses(found.sequences, rule.normalise).numpy()
        return [rows[np.argsort(losses[rows], kind="stable")[:shots]] for rows in candidates]
    student = load_student(config, prepared)
    theta, by = student.initial(config.seed, 0), as_coreset(rule, shots)
    return [
        rows[pick(by, vectors_of(student, theta, split.select(rows), rule.pooling), shots, config.seed, label)]
        for label, rows in enumerate(candidates)
    ]


def as_coreset(rule: ByCentres | ByHerding, shots: int) -> KCentres | Herding:
    """The rule that real sentences are chosen by in the same way."""
    if isinstance(rule, ByHerding):
        return Herding(name="herding", shots=shots, pooling=rule.pooling)
    return KCentres(name="k_centres", shots=shots, centres=rule.centres, pooling=rule.pooling)
