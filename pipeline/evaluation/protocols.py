"""How a student learns from a set, and the loop over fresh initialisations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline import stopping
from pipeline.bilevel import descend
from pipeline.config import AlwaysMajority, Evaluate, FineTune, GradientSteps, on_real_text
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Batch
from pipeline.distilled import DistilledSet
from pipeline.errors import InputError
from pipeline.evaluation.metrics import decisions, measure, predicted_majority
from pipeline.evaluation.results import Results
from pipeline.progress import bar
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.encoder import Parameters, Student
from pipeline.students.finetune import finetune
from pipeline.students.scoring import score

Batches = dict[str, list[tuple[Tensor, Batch]]]


def evaluate(config: Evaluate, prepared: Prepared, distilled: DistilledSet, out: Path) -> None:
    """Writes ``results.csv``: every initialisation trains on the set and is scored on every split.

    Initialisation i draws its classifier from (seed, i) alone, so that a run that was stopped goes on with the next
    one and ends with the same rows. Shared by all initialisations, exactly: the encoder's weights, the collated
    batches of every split, the set on the device. Rows of a split are batched by length; padding is masked, so logits
    equal unbatched ones up to float rounding.

    Raises:
        InputError: the set was made for another encoder, or has no step sizes for the protocol.
        Stopped: a signal came; the initialisation of that moment is finished and kept, unless it is being fine-tuned.

    """
    results = Results(out / "results.csv", config.splits)
    splits = {name: prepared.split(name) for name in config.splits}
    labels = {name: split.labels for name, split in splits.items()}
    if isinstance(config.protocol, AlwaysMajority):
        _majority(distilled, labels, results)
        return
    student = _student(config, prepared, distilled)
    distilled.check_model(student.embedding_matrix)
    batches = {name: split.batches(student.device) for name, split in splits.items()}
    distilled = distilled.to(student.device)
    missing = [index for index in range(config.initialisations) if index not in results.done]
    accuracies: list[float] = []
    found = config.initialisations - len(missing)
    with bar(config.initialisations, "evaluate", "initialisation", found, fractions=True) as shown:

        def watch(step: int, steps: int, loss: float) -> None:
            shown.set_postfix(loss=f"{loss:.3f}", refresh=False)
            shown.update(1 / steps)

        for index in missing:
            with stopping.polled():
                began = time.perf_counter()
                trained = _train(config, student, distilled, index, watch)
                seconds = time.perf_counter() - began
                scores = {name: measure(score(student, trained, batches[name]), labels[name]) for name in config.splits}
                results.add(index, scores, seconds)
            stopping.check()
            accuracies.append(scores[config.splits[-1]]["accuracy"])
            shown.set_postfix(accuracy=f"{sum(accuracies) / len(accuracies):.3f}", on=config.splits[-1], refresh=False)
            shown.update(len(results.done) - shown.n)


def _student(config: Evaluate, prepared: Prepared, distilled: DistilledSet) -> Student:
    protocol, recipe = config.protocol, distilled.recipe
    if isinstance(protocol, GradientSteps) and not distilled.steps:
        raise InputError("this set has no step sizes for protocol 'ddal'; evaluate it with {name: finetune}")
    folder, fresh, device = prepared.model_folder, prepared.manifest["fresh_parameters"], pick_device(config.runtime)
    if not isinstance(protocol, GradientSteps):
        return Student.load(folder, fresh, device, dropout=isinstance(protocol, FineTune) and protocol.dropout)
    return Student.load(
        folder,
        fresh,
        device,
        dropout=recipe.dropout,
        precision=recipe.precision,
        outer_precision=protocol.precision or on_real_text(recipe.precision),
    )


def _train(
    config: Evaluate, student: Student, distilled: DistilledSet, index: int, watch: Callable[[int, int, float], None]
) -> Parameters:
    seed = derive(config.seed, "evaluation")
    theta_0 = student.initial(seed, index)
    if isinstance(config.protocol, GradientSteps):
        batches = distilled.inner_batches(seed, index)
        return descend(
            student,
            theta_0,
            batches,
            optimiser=distilled.recipe.optimiser,
            dropping=lambda step: student.dropping(seed, index, step),
        )
    assert isinstance(config.protocol, FineTune)
    return finetune(student, theta_0, len(distilled), distilled.examples, config.protocol, seed, index, watch)


def _majority(distilled: DistilledSet, labels: Mapping[Any, Tensor], results: Results) -> None:
    if 0 not in results.done:
        scores = {
            name: decisions(predicted_majority(distilled.labels, len(true)), true, distilled.labels.shape[1])
            for name, true in labels.items()
        }
        results.add(0, scores, 0.0)
