"""The protocol ``robust``: students that learn by a set's own recipe, and by variants that differ in one thing each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline import stopping
from pipeline.config import Evaluate, FineTune, Robust, on_real_text
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.evaluation.protocols import trained
from pipeline.evaluation.record import VariantRecord
from pipeline.evaluation.variants import Variant, variants
from pipeline.progress import bar
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.encoder import Student
from pipeline.students.scoring import score


def vary(config: Evaluate, prepared: Prepared, distilled: DistilledSet, out: Path) -> None:
    """Writes ``robustness.csv``: every variant of every initialisation, on every split.

    What the recipe itself scored is also written as any other protocol would write it, to ``results.csv`` and
    ``predictions.h5``, and is the same: initialisation i has the same classifier in all protocols and all variants. It
    comes last of an initialisation, so that ``results.csv`` counts those of which nothing is missing. The rows of
    ``majority`` are what always answering a split's most frequent class scores.

    Raises:
        InputError: the set was made for another encoder.
        Stopped: a signal came; the training of that moment is kept, unless it is by ``finetune``.

    """
    protocol, recipe = config.protocol, config.recipe
    assert isinstance(protocol, Robust)
    splits = {name: prepared.split(name) for name in config.splits}
    record = VariantRecord(out, {name: split.labels for name, split in splits.items()}, distilled.labels.shape[1])
    device = pick_device(config.runtime)
    batches = {name: split.batches(device) for name, split in splits.items()}
    distilled = distilled.to(device)
    seed = derive(config.seed, "evaluation", config.source.seed)
    plan = variants(protocol, distilled, recipe if isinstance(recipe, FineTune) else None, seed)
    found = len(record.done)
    with bar(len(plan) * config.initialisations, "evaluate", "student", found, fractions=True) as shown:

        def watch(step: int, steps: int, loss: float) -> None:
            shown.update(1 / steps)

        for alike in _by_student(plan):
            missing = [(v, i) for i in range(config.initialisations) for v in alike if (v.name, i) not in record.done]
            if not missing:
                continue
            student = _student(prepared, alike[0], device)
            distilled.check_model(student.embedding_matrix)
            for variant, index in missing:
                shown.set_postfix(variant=variant.name, refresh=False)
                with stopping.polled():
                    began = time.perf_counter()
                    theta_T = trained(student, variant.made(index), variant.recipe, seed, index, watch)
                    seconds = time.perf_counter() - began
                    logits = {name: score(student, theta_T, of_split) for name, of_split in batches.items()}
                    record.add(variant.name, index, logits, seconds)
                stopping.check()
                shown.update(len(record.done) - shown.n)


def _by_student(plan: Sequence[Variant]) -> list[list[Variant]]:
    """The variants that share a student; the last of the plan is in the last group."""
    groups: dict[tuple[bool, str], list[Variant]] = {}
    for variant in plan:
        groups.setdefault((variant.dropout, variant.precision), []).append(variant)
    return sorted(groups.values(), key=lambda group: group[-1] is plan[-1])


def _student(prepared: Prepared, variant: Variant, device: torch.device) -> Student:
    return Student.load(
        prepared.model_folder,
        prepared.manifest["fresh_parameters"],
        device,
        dropout=variant.dropout,
        precision=variant.precision,
        outer_precision=on_real_text(variant.precision),
    )
