"""Which pieces a cell of stage 2 or 3 is measured by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import work
from pipeline.config import (
    BPTT,
    DDAL,
    LM,
    AlwaysMajority,
    ByScores,
    ByVectors,
    Composed,
    DiLM,
    Distill,
    Evaluate,
    FineTune,
    Generated,
    GradientSteps,
    Learned,
    OnVectors,
    Project,
    Prompted,
    Rank,
    Text,
    on_real_text,
)
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, load, save, transferred
from pipeline.distilled.text import written_out
from pipeline.errors import InputError
from pipeline.methods import make
from pipeline.methods.composed import compose
from pipeline.probe.coresets import probe_coreset
from pipeline.probe.ddal import inner, probe_ddal
from pipeline.probe.language import language_pieces
from pipeline.probe.prompting import prompt_pieces
from pipeline.probe.slices import Slice
from pipeline.probe.text import projected, text_pieces
from pipeline.probe.vectors import distill_pieces, evaluate_pieces
from pipeline.students.device import pick_device
from pipeline.students.encoder import Student
from pipeline.students.finetune import plain_steps
from pipeline.work import vectors as vector_work


def probe_distill(config: Distill, folder: Path, set_: Path, parts: Sequence[Path] = ()) -> Slice:
    """A few outer steps and a part of a validation, or a part of what a coreset needs; leaves a set of that shape.

    A composed one is put together of those that the slices of its ``parts`` left.

    Raises:
        InputError: the method learns in a way that no slice is written for; the whole would be run.

    """
    prepared, found = Prepared(folder), Slice(folder)
    if isinstance(config.method, DDAL):
        probe_ddal(config, config.method, prepared, found, set_)
    elif isinstance(config.method, BPTT):
        found.pieces(distill_pieces(config, config.method, prepared, set_))
    elif isinstance(config.method, LM | DiLM | Generated | Rank):
        found.pieces(language_pieces(config, prepared, set_))
    elif isinstance(config.method, Text):
        found.pieces(text_pieces(config, config.method, prepared, set_))
    elif isinstance(config.method, Project):
        projected(config.method, prepared, config, set_)
        found.begun()
    elif isinstance(config.method, Composed):
        save(compose(config.method, prepared, parts), set_)
        found.begun()
    elif isinstance(config.method, ByVectors | ByScores):
        probe_coreset(config, config.method, prepared, found)
    elif isinstance(config.method, Learned):
        raise InputError(f"no slice of method '{config.method.name}' is written")
    else:
        made = make(config, prepared, set_.parent)
        assert isinstance(made, DistilledSet)
        save(made, set_)
        found.begun()
    return found


def probe_evaluate(config: Evaluate, folder: Path, set_: Path, own: Path) -> Slice:
    """A part of a training on the set, and of the scoring of the splits; ``own`` is the data that the set is of.

    Raises:
        InputError: no slice is written for the recipe.

    """
    found, prepared, protocol = Slice(folder), Prepared(folder), config.protocol
    if vector_work.counted(config):
        assert isinstance(config.recipe, OnVectors)
        found.pieces(evaluate_pieces(config, config.recipe, prepared))
        return found
    distilled = load(set_).prefix(config.prefix)
    if isinstance(protocol, Prompted):
        found.pieces(prompt_pieces(config, prepared, written_out(distilled, Prepared(own), prepared)))
        return found
    if config.data is not None and not config.asks_part:
        distilled = transferred(distilled, Prepared(own), prepared)
    device = pick_device(config.runtime)
    if isinstance(protocol, AlwaysMajority):
        found.begun()
        return found
    if not isinstance(protocol, GradientSteps | FineTune):
        raise InputError(f"no slice of protocol '{protocol.name}' is written")
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


def _learn(config: Evaluate, student: Student, distilled: DistilledSet, found: Slice) -> None:
    protocol, whole = config.protocol, work.of_training(config, found.folder)
    if isinstance(protocol, FineTune):
        steps = sum(protocol.steps_on(size) for size, _ in distilled.turns())
        size, examples = max(distilled.turns(), key=lambda turn: turn[0])  # of phases the one with most samples
        found.training(student, size, examples, protocol, whole.training / steps)
        return
    assert isinstance(protocol, GradientSteps)
    theta, kind = student.initial(0, 0), "inner" if protocol.step_sizes is None else "training"

    def once() -> object:
        if protocol.step_sizes is not None:
            return plain_steps(student, theta, len(distilled), distilled.examples, protocol.step_sizes)
        return inner(student, theta, distilled)

    found.repeat(kind, once, lambda n: n * whole.total)
