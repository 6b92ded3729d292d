"""Protocols on frozen sentence vectors: fresh students learn from a set, many at once, and are scored on real rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline import stopping
from pipeline.bilevel import Parameters
from pipeline.config import BestCheck, Evaluate, FullData, OnVectors
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.errors import InputError
from pipeline.evaluation.record import Record
from pipeline.evaluation.results import Epochs
from pipeline.evaluation.selection import Moments
from pipeline.progress import bar
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.vector_training import Samples, learn, score
from pipeline.students.vectors import VectorStudent

Watch = Callable[[float], None]


def evaluate_on_vectors(config: Evaluate, prepared: Prepared, distilled: DistilledSet, out: Path) -> None:
    """Writes ``results.csv`` and ``predictions.h5``: every initialisation learns from the set and is scored.

    Initialisation i depends on (seed, the set's seed, i) alone; ``protocol.together`` of them train at once, and each
    is charged its share of the seconds. Where the protocol selects a moment, ``epochs.csv`` has what each scored on dev
    at every one of them, and which one was kept.

    Raises:
        InputError: the set holds vectors of another encoder, or its rows have none.
        Stopped: a signal came; what is written stays, the students of that moment are lost.

    """
    recipe = config.recipe
    assert isinstance(recipe, OnVectors)
    device = pick_device(config.runtime)
    splits = {name: prepared.vectors(name) for name in config.splits}
    record = Record(out, {name: split.labels for name, split in splits.items()}, distilled.labels.shape[1])
    here = {name: split.to(device) for name, split in splits.items()}
    samples = samples_of(config, prepared, distilled).to(device)
    student = student_of(config, samples, device)
    seed = derive(config.seed, "evaluation", config.source.seed)
    judge = None
    if recipe.select is not None:
        judge = _Judge(recipe.select, prepared, student, derive(config.seed, "evaluation"), out)
    missing = [index for index in range(config.initialisations) if index not in record.initialisations]
    accuracies: list[float] = []
    found = config.initialisations - len(missing)
    with bar(config.initialisations, "evaluate", "initialisation", found, fractions=True) as shown:
        for members in groups(missing, recipe.together):
            with stopping.polled():
                began = time.perf_counter()
                theta_T = _trained(student, samples, recipe, seed, members, judge, shown.update)
                seconds = (time.perf_counter() - began) / len(members)
                logits = {name: score(student, theta_T, split.vectors) for name, split in here.items()}
                for number, index in enumerate(members):
                    scores = record.write(index, {name: each[number] for name, each in logits.items()}, seconds)
                    accuracies.append(scores[config.splits[-1]]["accuracy"])
            stopping.check()
            shown.set_postfix(accuracy=f"{sum(accuracies) / len(accuracies):.3f}", on=config.splits[-1], refresh=False)
            shown.update(len(record.initialisations) - shown.n)


def groups(missing: Sequence[int], together: int) -> Iterator[Sequence[int]]:
    """Initialisations that train at once."""
    for start in range(0, len(missing), together):
        yield missing[start : start + together]


def samples_of(config: Evaluate, prepared: Prepared, distilled: DistilledSet) -> Samples:
    """What students learn from: the set's own vectors, or those of its real rows in stage 1's file.

    Raises:
        InputError: the set holds vectors of another encoder, or does not say which rows it is made of.

    """
    if distilled.vectors is not None:
        about = prepared.manifest["vectors"]
        distilled.check_vectors(about["pooling"], about["encoder_hash"], centred=prepared.vector_mean() is not None)
        return Samples(distilled.vectors, distilled.labels)
    train = prepared.vectors("train")
    if isinstance(config.source.method, FullData):
        return Samples(train.vectors, distilled.labels)
    chosen = distilled.about.get("chosen")
    if chosen is None:
        raise InputError("this set does not say which training rows it holds; make it again with stage 2")
    return Samples(train.vectors[torch.tensor(chosen["rows"])], distilled.labels)


def student_of(config: Evaluate, samples: Samples, device: torch.device) -> VectorStudent:
    """The network that the config names, for these samples."""
    assert config.student is not None
    return VectorStudent(config.student, samples.vectors.shape[1], samples.labels.shape[1], device)


def _trained(
    student: VectorStudent,
    samples: Samples,
    recipe: OnVectors,
    seed: int,
    members: Sequence[int],
    judge: _Judge | None,
    progress: Callable[[float], Any],
) -> Parameters:
    """θ_T of the members, or of each its best moment."""
    steps = recipe.steps_on(len(samples))

    def watch(step: int) -> None:
        progress(len(members) / steps)

    if judge is None:
        (theta_T,) = (theta for _, theta in learn(student, samples, recipe, seed, members, (steps,), watch))
        return theta_T
    best = judge.of(members)
    for _, theta in learn(student, samples, recipe, seed, members, recipe.checks_on(len(samples)), watch):
        best.look(theta)
    return best.theta


class _Judge:
    """Scores moments of a training on dev, on the same rows for all initialisations, and writes them down."""

    def __init__(self, select: BestCheck, prepared: Prepared, student: VectorStudent, seed: int, out: Path) -> None:
        split = prepared.vectors(select.split)
        if select.examples is not None:
            text = prepared.split(select.split)
            rows = text.stratified_rows(select.examples, seed, "rows that select an epoch")
            split = split.select(torch.as_tensor(rows))
        self.by, self.student, self.labels = select.by, student, split.labels
        self.vectors = split.vectors.to(student.device)
        self.epochs = Epochs(out / "epochs.csv")

    def of(self, members: Sequence[int]) -> _Best:
        """The best moments of these members."""
        return _Best(self, members)


class _Best:
    """Of every member its best moment so far, the earliest of equals.

    Attributes:
        theta: of each at that moment.

    """

    def __init__(self, judge: _Judge, members: Sequence[int]) -> None:
        self._judge = judge
        self._moments = [Moments(judge.epochs, index, judge.by) for index in members]
        self.theta: Parameters = {}

    def look(self, theta: Parameters) -> None:
        """Scores the members as they are now."""
        logits = score(self._judge.student, theta, self._judge.vectors)
        if not self.theta:
            self.theta = {name: tensor.clone() for name, tensor in theta.items()}
        for number, moments in enumerate(self._moments):
            moments.add(logits[number], self._judge.labels)
            if moments.last_is_kept:
                for name, tensor in theta.items():
                    self.theta[name][number] = tensor[number]
