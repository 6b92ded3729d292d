"""A measured slice of one cell, in a process of its own: ``python -m pipeline.probe REQUEST ANSWER`` (JSON files).

A few outer steps, a few training steps, a few batches that are scored: enough to know how fast each kind of work
(:class:`pipeline.report.work.Work`) is here, how long a cell takes before it begins, and how much memory it needs.
Everything is done by the functions that the stages themselves call.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.bilevel import descend
from pipeline.config import (
    BPTT,
    DDAL,
    LM,
    ByScores,
    ByVectors,
    Composed,
    Coreset,
    DiLM,
    Distill,
    Evaluate,
    FineTune,
    Generated,
    GradientSteps,
    OnVectors,
    Project,
    Prompted,
    Rank,
    Text,
    Training,
    on_real_text,
)
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Batch, Split
from pipeline.distilled import DistilledSet, load, save, transferred
from pipeline.distilled.text import written_out
from pipeline.methods import make
from pipeline.methods.composed import compose
from pipeline.methods.ddal import load_student
from pipeline.methods.learned import LearnedSet, initial_tensors
from pipeline.methods.outer import Estimation, OuterState
from pipeline.probe_prompting import prompt_pieces
from pipeline.probe_text import projected, text_pieces
from pipeline.probe_vectors import Piece, distill_pieces, evaluate_pieces
from pipeline.progress import quiet_libraries
from pipeline.report import vector_work, work
from pipeline.store.atomic import read_json, write_json
from pipeline.store.usage import Meter
from pipeline.students.device import pick_device
from pipeline.students.encoder import Parameters, Student
from pipeline.students.finetune import finetune, plain_steps
from pipeline.students.scoring import score

SECONDS = 3.0  # of each kind of work, once it is warm
MOST = 30  # repetitions
BATCHES = 4  # that are scored


class _Enough(Exception):  # noqa: N818  (no error)
    """The slice is long enough."""


class Stopwatch:
    """Wall and processor seconds of the parts of a slice."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self) -> tuple[float, float]:
        """(wall, processor) seconds since the last lap."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        found = now[0] - self._wall, now[1] - self._cpu
        self._wall, self._cpu = now
        return found


class Slice:
    """What was measured.

    Attributes:
        startup: (wall, processor) seconds before the first step.
        rates: kind of work -> FLOPs and (wall, processor) seconds that they took.

    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.watch = folder, Stopwatch()
        self.startup = (0.0, 0.0)
        self.rates: dict[str, tuple[float, float, float]] = {}

    def begun(self) -> None:
        """All that comes before the first step is done."""
        self.startup = self.watch.lap()

    def repeat(self, kind: str, once: Callable[[], object], flops: Callable[[int], float]) -> None:
        """Measures ``once`` after a warm-up; ``flops`` of so many first repetitions, the warm-up included."""
        once()
        self.watch.lap()
        wall = cpu = 0.0
        count = 0
        while count < MOST and (count < 2 or wall < SECONDS):
            once()
            lap = self.watch.lap()
            wall, cpu, count = wall + lap[0], cpu + lap[1], count + 1
        self.rates[kind] = flops(count + 1) - flops(1), wall, cpu

    def scoring(self, student: Student, theta: Parameters, batches: list[tuple[torch.Tensor, Batch]]) -> None:
        """Some batches from the longest sentences to short ones."""
        every = max(1, len(batches) // BATCHES)
        chosen = batches[::-1][::every][:BATCHES]  # the longest one, which decides on the memory, among them
        lengths = torch.cat([batch["attention_mask"].sum(dim=1) for _, batch in chosen]).tolist()
        rows = [(torch.arange(len(positions)), batch) for positions, batch in chosen]
        passes = work.has_passes(self.folder)
        count = float(work.scored(self.folder, lengths, fused=passes))
        self.repeat("scoring", lambda: [score(student, theta, [one]) for one in rows], lambda n: n * count)

    def training(
        self, student: Student, size: int, examples: Callable[[Any], Batch], recipe: Training, flops: float
    ) -> None:
        """Steps of AdamW; ``flops`` is of one."""
        laps: list[tuple[float, float]] = []

        def watch(step: int, steps: int, loss: float) -> None:
            laps.append(self.watch.lap())
            if len(laps) >= 4 and (sum(wall for wall, _ in laps[2:]) > SECONDS or len(laps) > MOST):
                raise _Enough

        self.watch.lap()
        short = Training.model_validate(recipe.model_dump(include=set(Training.model_fields)) | {"epochs": None})
        try:
            finetune(student, student.initial(0, 0), size, examples, short, 0, 0, watch)
        except _Enough:
            student.training(False)
        kept = laps[2:] or laps
        self.rates["training"] = flops * len(kept), sum(wall for wall, _ in kept), sum(cpu for _, cpu in kept)


def probe_distill(config: Distill, folder: Path, set_: Path, parts: Sequence[Path] = ()) -> Slice:
    """A few outer steps and a part of a validation, or a part of what a coreset needs; leaves a set of that shape.

    A composed one is put together of those that the slices of its ``parts`` left.
    """
    prepared, found = Prepared(folder), Slice(folder)
    if isinstance(config.method, DDAL):
        _ddal(config, config.method, prepared, found, set_)
    elif isinstance(config.method, BPTT):
        _repeat_all(found, distill_pieces(config, config.method, prepared, set_))
    elif isinstance(config.method, LM | DiLM | Generated | Rank):
        from pipeline.probe_language import pieces

        _repeat_all(found, pieces(config, prepared, set_))
    elif isinstance(config.method, Text):
        _repeat_all(found, text_pieces(config, config.method, prepared, set_))
    elif isinstance(config.method, Project):
        projected(config.method, prepared, config, set_)
        found.begun()
    elif isinstance(config.method, Composed):
        save(compose(config.method, prepared, parts), set_)
        found.begun()
    elif isinstance(config.method, Coreset):
        _coreset(config, config.method, prepared, found)
    else:
        made = make(config, prepared, set_.parent)
        assert isinstance(made, DistilledSet)
        save(made, set_)
        found.begun()
    return found


def probe_evaluate(config: Evaluate, folder: Path, set_: Path, own: Path) -> Slice:
    """A part of a training on the set, and of the scoring of the splits; ``own`` is the data that the set is of."""
    found, prepared, protocol = Slice(folder), Prepared(folder), config.protocol
    if vector_work.counted(config):
        assert isinstance(config.recipe, OnVectors)
        _repeat_all(found, evaluate_pieces(config, config.recipe, prepared))
        return found
    distilled = load(set_)
    if isinstance(protocol, Prompted):
        _repeat_all(found, prompt_pieces(config, prepared, written_out(distilled, Prepared(own), prepared)))
        return found
    if config.data is not None and not config.asks_part:
        distilled = transferred(distilled, Prepared(own), prepared)
    device = pick_device(config.runtime)
    if not isinstance(protocol, GradientSteps | FineTune):
        found.begun()
        return found
    options: dict[str, Any] = {}
    if isinstance(protocol, FineTune):
        options["dropout"] = protocol.dropout
    else:
        recipe = distilled.recipe
        options |= {"dropout": recipe.dropout, "precision": recipe.precision}
        options["outer_precision"] = protocol.precision or on_real_text(recipe.precision)
    student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], device, **options)
    batches = {name: prepared.split(name).batches(device) for name in config.splits}
    distilled = distilled.to(device)
    student.passes()
    found.begun()
    _learn(config, student, distilled, found)
    found.scoring(student, student.initial(0, 0), max(batches.values(), key=len))
    return found


def _repeat_all(found: Slice, pieces: Sequence[Piece]) -> None:
    found.begun()
    for kind, once, each in pieces:
        found.repeat(kind, once, lambda n, each=each: n * each)  # type: ignore[misc]


def _learn(config: Evaluate, student: Student, distilled: DistilledSet, found: Slice) -> None:
    protocol, whole = config.protocol, work.of_training(config, found.folder)
    if isinstance(protocol, FineTune):
        steps = sum(work.training_steps(protocol, size) for size, _ in distilled.turns())
        size, examples = max(distilled.turns(), key=lambda turn: turn[0])  # of phases the one with most samples
        found.training(student, size, examples, protocol, whole.training / steps)
        return
    assert isinstance(protocol, GradientSteps)
    theta, kind = student.initial(0, 0), "inner" if protocol.step_sizes is None else "training"

    def once() -> object:
        if protocol.step_sizes is not None:
            return plain_steps(student, theta, len(distilled), distilled.examples, protocol.step_sizes)
        return _inner(student, theta, distilled)

    found.repeat(kind, once, lambda n: n * whole.total)


def _inner(student: Student, theta: Parameters, distilled: DistilledSet) -> Parameters:
    steps = distilled.inner_batches(0, 0)
    optimiser = distilled.recipe.optimiser
    return descend(student, theta, steps, optimiser=optimiser, dropping=lambda step: student.dropping(0, 0, step))


def _ddal(config: Distill, method: DDAL, prepared: Prepared, found: Slice, set_: Path) -> None:
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
        found.repeat("inner", lambda: _inner(student, student.initial(0, 0), made), lambda n: n * each)
        found.scoring(student, student.initial(0, 0), batches)
    save(made, set_)


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


def _coreset(config: Distill, method: Coreset, prepared: Prepared, found: Slice) -> None:
    from pipeline.methods.coresets.candidates import distinct
    from pipeline.methods.coresets.vectors import load_student as plain

    train, folder = prepared.split("train"), prepared.folder
    distinct(train)
    student = plain(config, prepared)
    student.passes()
    found.begun()
    recipe = method.training if isinstance(method, ByVectors | ByScores) else None
    if recipe is not None:
        steps = work.training_steps(recipe, len(train))
        steps *= method.trainings if isinstance(method, ByScores) else 1
        each = work.of_distill(config, folder).training / steps
        found.training(student, len(train), lambda rows: _one_hot(train, prepared, rows, student), recipe, each)
    batches = train.stratified(64 * BATCHES, 0, "probe").batches(student.device)
    if isinstance(method, ByVectors):
        theta, pooling = student.initial(0, 0), method.pooling
        lengths = torch.cat([batch["attention_mask"].sum(dim=1) for _, batch in batches]).tolist()
        count = float(work.scored(folder, lengths, fused=False))
        found.repeat(
            "scoring", lambda: [student.vectors(theta, batch, pooling) for _, batch in batches], lambda n: n * count
        )
    else:
        found.scoring(student, student.initial(0, 0), batches)


def _one_hot(train: Split, prepared: Prepared, rows: Any, student: Student) -> Batch:
    batch = train.batch(rows.tolist(), student.device)
    return batch | {"labels": torch.nn.functional.one_hot(batch["labels"], len(prepared.classes)).float()}


def main(request: str, answer: str) -> None:
    """Measures what the request asks for; what came before, the imports, is a part of every cell's beginning."""
    asked = read_json(Path(request))
    imports = time.time() - asked["time"], time.process_time()
    quiet_libraries()
    meter = Meter()
    places = Path(asked["prepared"]), Path(asked["set"])
    if asked["stage"] == "distill":
        found = probe_distill(Distill.model_validate(asked["config"]), *places, list(map(Path, asked["parts"])))
    else:
        found = probe_evaluate(Evaluate.model_validate(asked["config"]), *places, Path(asked["own"]))
    used = asdict(replace(meter.read(), cpu_seconds=0.0))
    startup = [before + own for before, own in zip(imports, found.startup, strict=True)]
    write_json(Path(answer), {"startup": startup, "rates": found.rates, "usage": used})


if __name__ == "__main__":
    main(*sys.argv[1:])
