"""How a student learns from a set, and the loop over fresh initialisations."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pipeline import stopping
from pipeline.bilevel import descend
from pipeline.config import AlwaysMajority, BestEpoch, Evaluate, FineTune, GradientSteps, on_real_text
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.errors import InputError
from pipeline.evaluation.metrics import predicted_majority
from pipeline.evaluation.record import Record
from pipeline.evaluation.results import Epochs
from pipeline.evaluation.selection import Moments
from pipeline.progress import bar
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.encoder import Parameters, Student
from pipeline.students.finetune import finetune_in_turn, plain_steps
from pipeline.students.scoring import score

Watch = Callable[[int, int, float], None]


def evaluate(
    config: Evaluate, prepared: Prepared, distilled: DistilledSet, out: Path, scored: Prepared | None = None
) -> None:
    """Writes ``results.csv``: every initialisation trains on the set and is scored on every split.

    ``predictions.h5`` gets what each of them answered, just before: an initialisation counts when it is in both.
    Where the protocol selects an epoch, ``epochs.csv`` has what each scored on dev, and which one was kept.

    Initialisation i draws its classifier from (seed, the set's seed, i) alone: other sets are learned from by other
    classifiers, so that what varies between sets holds both. A run that was stopped goes on with the next one and ends
    with the same rows. Shared by all initialisations, exactly: the encoder's weights, the collated
    batches of every split, the set on the device. Rows of a split are batched by length; padding is masked, so logits
    equal unbatched ones up to float rounding.

    Args:
        config: the cell.
        prepared: what students are made from, and learn to tell apart.
        distilled: what they learn from.
        out: the cell's folder.
        scored: of joined tasks the one that is asked for: its rows, answered with its own classes alone, whose logits
            stand among the others'. The same students as for the others.

    Raises:
        InputError: the set was made for another encoder, or has no step sizes for the protocol.
        Stopped: a signal came; the initialisation of that moment is finished and kept, unless it is being fine-tuned.

    """
    columns = slice(None) if scored is None else prepared.classes_of(scored.manifest["task"])
    splits = {name: (scored or prepared).split(name) for name in config.splits}
    labels = {name: split.labels for name, split in splits.items()}
    record = Record(out, labels, distilled.labels[:, columns].shape[1])
    if isinstance(config.protocol, AlwaysMajority):
        if 0 not in record.initialisations:
            record.write_answers(0, {s: predicted_majority(distilled.labels, len(true)) for s, true in labels.items()})
        return
    student = _student(config, prepared, distilled)
    distilled.check_model(student.embedding_matrix)
    batches = {name: split.batches(student.device) for name, split in splits.items()}

    def answered(theta: Parameters) -> dict[str, Tensor]:
        return {name: score(student, theta, of_split)[:, columns] for name, of_split in batches.items()}

    _in_turn(config, record, _Training(config, student, prepared, distilled.to(student.device), out), answered)


def _in_turn(
    config: Evaluate, record: Record, train: _Training, answered: Callable[[Parameters], dict[str, Tensor]]
) -> None:
    """Trains every initialisation that is missing, and writes down its logits on every split."""
    missing = [index for index in range(config.initialisations) if index not in record.initialisations]
    accuracies: list[float] = []
    found = config.initialisations - len(missing)
    with bar(config.initialisations, "evaluate", "initialisation", found, fractions=True) as shown:

        def watch(step: int, steps: int, loss: float) -> None:
            shown.set_postfix(loss=f"{loss:.3f}", refresh=False)
            shown.update(1 / steps)

        for index in missing:
            with stopping.polled():
                began = time.perf_counter()
                theta_T = train(index, watch)
                seconds = time.perf_counter() - began
                scores = record.write(index, answered(theta_T), seconds)
            stopping.check()
            accuracies.append(scores[config.splits[-1]]["accuracy"])
            shown.set_postfix(accuracy=f"{sum(accuracies) / len(accuracies):.3f}", on=config.splits[-1], refresh=False)
            shown.update(len(record.initialisations) - shown.n)


def _student(config: Evaluate, prepared: Prepared, distilled: DistilledSet) -> Student:
    protocol, recipe = config.protocol, distilled.recipe
    if isinstance(protocol, GradientSteps) and not (distilled.steps or protocol.step_sizes):
        raise InputError(
            "this set has no step sizes for protocol 'ddal'; give them, {name: ddal, step_sizes: [0.1]}, "
            "or evaluate it with {name: finetune}"
        )
    folder, fresh, device = prepared.model_folder, prepared.manifest["fresh_parameters"], pick_device(config.runtime)
    if isinstance(protocol, FineTune):
        return Student.load(folder, fresh, device, dropout=protocol.dropout, outer_precision=protocol.precision)
    if not isinstance(protocol, GradientSteps):
        return Student.load(folder, fresh, device)
    return Student.load(
        folder,
        fresh,
        device,
        dropout=recipe.dropout,
        precision=recipe.precision,
        outer_precision=protocol.precision or on_real_text(recipe.precision),
    )


class _Training:
    """How initialisation i becomes a trained student; i alone decides what it draws."""

    def __init__(
        self, config: Evaluate, student: Student, prepared: Prepared, distilled: DistilledSet, out: Path
    ) -> None:
        self.protocol, self.student, self.distilled = config.protocol, student, distilled
        self.seed = derive(config.seed, "evaluation", config.source.seed)
        self.judge = None
        if isinstance(config.protocol, FineTune) and config.protocol.select is not None:
            judged = derive(config.seed, "evaluation")  # the same rows for all sets
            self.judge = _Judge(config.protocol.select, prepared, student, judged, Epochs(out / "epochs.csv"))

    def __call__(self, index: int, watch: Watch) -> Parameters:
        student, distilled, seed, protocol = self.student, self.distilled, self.seed, self.protocol
        if isinstance(protocol, GradientSteps) and protocol.step_sizes is not None:
            theta_0 = student.initial(seed, index)
            for size, examples in distilled.turns():
                theta_0 = plain_steps(student, theta_0, size, examples, protocol.step_sizes)
            return theta_0
        recipe = protocol if isinstance(protocol, FineTune) else None
        judge = None if self.judge is None else self.judge.of(index)
        return trained(student, distilled, recipe, seed, index, watch, judge)


def trained(
    student: Student,
    distilled: DistilledSet,
    recipe: FineTune | None,
    seed: int,
    index: int,
    watch: Watch,
    judge: Callable[[Parameters], float] | None = None,
) -> Parameters:
    """θ_T of initialisation ``index``, by ``recipe`` or else by the set's own steps; the last two as for finetune."""
    theta_0 = student.initial(seed, index)
    if recipe is not None:
        return finetune_in_turn(student, theta_0, distilled.turns(), recipe, seed, index, watch, judge)
    return descend(
        student,
        theta_0,
        distilled.inner_batches(seed, index),
        optimiser=distilled.recipe.optimiser,
        dropping=lambda step: student.dropping(seed, index, step),
    )


class _Judge:
    """Scores the epochs of a training on dev, on the same rows for all initialisations, and writes them down."""

    def __init__(self, select: BestEpoch, prepared: Prepared, student: Student, seed: int, epochs: Epochs) -> None:
        split = prepared.split(select.split)
        split = split.stratified(select.examples or len(split), seed, "rows that select an epoch")
        self.by, self.student, self.epochs = select.by, student, epochs
        self.labels, self.batches = split.labels, split.batches(student.device)

    def of(self, index: int) -> Callable[[Parameters], float]:
        """Initialisation ``index``'s merit after each epoch; smaller is better."""
        moments = Moments(self.epochs, index, self.by)
        return lambda parameters: moments.add(score(self.student, parameters, self.batches), self.labels)
