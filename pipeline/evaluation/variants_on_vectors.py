"""The protocol ``vectors_robust``: a recipe on vectors, and variants that differ from it in one thing each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline import stopping
from pipeline.config import Evaluate, OnVectors, RobustOnVectors
from pipeline.config.students import VectorNetwork
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.evaluation.on_vectors import groups, samples_of
from pipeline.evaluation.record import VariantRecord
from pipeline.evaluation.results import OWN
from pipeline.evaluation.variants import other_lr
from pipeline.progress import bar
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.vector_training import Samples, learn, score
from pipeline.students.vectors import VectorStudent


@dataclass(frozen=True)
class Course:
    """One training, which several variants are moments of.

    Attributes:
        network, recipe: how it learns.
        moments: the variants by their number of steps, which those may share whose factors round to it.

    """

    network: VectorNetwork
    recipe: OnVectors
    moments: dict[int, tuple[str, ...]]

    @property
    def variants(self) -> list[str]:
        """All of its moments."""
        return [name for names in self.moments.values() for name in names]


def vary_on_vectors(config: Evaluate, prepared: Prepared, distilled: DistilledSet, out: Path) -> None:
    """Writes ``robustness.csv``, and ``results.csv`` and ``predictions.h5`` of the recipe itself, which comes last.

    What trains longer is the same student, looked at later. Initialisation i is the same in all variants of one
    network.

    Raises:
        InputError: as :func:`~pipeline.evaluation.on_vectors.evaluate_on_vectors`.
        Stopped: likewise.

    """
    recipe = config.recipe
    assert isinstance(recipe, OnVectors)
    device = pick_device(config.runtime)
    splits = {name: prepared.vectors(name) for name in config.splits}
    record = VariantRecord(out, {name: split.labels for name, split in splits.items()}, distilled.labels.shape[1])
    vectors = {name: split.vectors.to(device) for name, split in splits.items()}
    samples = samples_of(config, prepared, distilled).to(device)
    seed = derive(config.seed, "evaluation", config.source.seed)
    plan = courses(config, len(samples))
    total = sum(len(course.variants) for course in plan) * config.initialisations
    with bar(total, "evaluate", "student", len(record.done), fractions=True) as shown:
        for course in plan:
            wanted = [
                index
                for index in range(config.initialisations)
                if any((variant, index) not in record.done for variant in course.variants)
            ]
            student = VectorStudent(course.network, samples.vectors.shape[1], samples.labels.shape[1], device)
            for members in groups(wanted, recipe.together):
                with stopping.polled():
                    _follow(course, student, samples, vectors, seed, members, record)
                stopping.check()
                shown.update(len(record.done) - shown.n)


def _follow(
    course: Course,
    student: VectorStudent,
    samples: Samples,
    vectors: dict[Any, Tensor],
    seed: int,
    members: Sequence[int],
    record: VariantRecord,
) -> None:
    """Trains the members and scores them at every moment; the recipe's own rows are written last."""
    seconds, found = 0.0, []
    began = time.perf_counter()
    for step, theta in learn(student, samples, course.recipe, seed, members, course.moments):
        seconds += time.perf_counter() - began
        logits = {name: score(student, theta, of) for name, of in vectors.items()}
        found += [(variant, seconds, logits) for variant in course.moments[step]]
        began = time.perf_counter()
    for variant, until, logits in sorted(found, key=lambda each: each[0] == OWN):
        for number, index in enumerate(members):
            record.add(variant, index, {name: each[number] for name, each in logits.items()}, until / len(members))


def courses(config: Evaluate, samples: int) -> list[Course]:
    """All trainings; that of the recipe itself is the last."""
    protocol, own, network = config.protocol, config.recipe, config.student
    assert isinstance(protocol, RobustOnVectors)
    assert isinstance(own, OnVectors)
    assert network is not None
    steps = own.steps_on(samples)
    found = []

    def add(name: str, network: VectorNetwork = network, **changes: object) -> None:
        found.append(Course(network, own.model_copy(update=changes), {steps: (name,)}))

    for name in protocol.optimizers:
        if name != own.optimizer:
            add(f"optimizer={name}", optimizer=name, lr=other_lr(protocol, own.optimizer, name) or own.lr)
    for factor in protocol.learning_rates:
        if factor != 1:
            add(f"learning_rate=x{factor:g}", lr=own.lr * factor)
    if network.dropout:
        add("dropout=off", network.model_copy(update={"dropout": 0.0}))
    else:
        add("dropout=on", network.model_copy(update={"dropout": 0.1}))
    for other in protocol.students:
        if other != network:
            add(f"student={other.name}", other)
    later: dict[int, tuple[str, ...]] = {}
    for factor in dict.fromkeys(protocol.steps):
        moment = max(1, round(factor * steps))
        later[moment] = (*later.get(moment, ()), f"steps=x{factor:g}")
    return [*found, Course(network, own, {**later, steps: (OWN,)})]
