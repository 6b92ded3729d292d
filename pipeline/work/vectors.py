"""How much computing cells on frozen vectors are, by kind: see :mod:`pipeline.work.cells`."""

from __future__ import annotations

import math
from typing import Any, Literal

from pipeline.bilevel.hypergradient import FEW_STEPS
from pipeline.config import BPTT, Distill, Evaluate, OnVectors, RobustOnVectors
from pipeline.config.students import VectorNetwork
from pipeline.students.vector_flops import Forward

Kinds = dict[str, float]


def of_bptt(config: Distill, manifest: dict[str, Any]) -> Kinds:
    """Outer steps, trainings of validations, and their scoring; scoring for ``hard_mining`` is in the latter."""
    method, found = config.method, Kinds(outer=0.0, inner=0.0, scoring=0.0)
    assert isinstance(method, BPTT)
    one, sizes, C = forward(method.student, manifest), manifest["sizes"], len(manifest["classes"])
    outer, validation = method.outer, method.validation
    short = method.estimator == "auto" and method.differentiated <= FEW_STEPS
    way: Literal["unroll", "adjoint"] = "unroll" if short or method.estimator == "unroll" else "adjoint"
    real = min(outer.batch_size, sizes["train"]) * one.training
    rows = 0 if validation.split == "none" else min(validation.examples or math.inf, sizes[validation.split])
    times = len({*range(method.every, outer.steps + 1, method.every), outer.steps}) if rows else 0
    for shots in method.stages:
        samples = (method.classes_per_batch or C) * min(method.batch_shots or shots, shots)
        loop = method.mean_start * one.training + method.differentiated * one.differentiated(way)
        found["outer"] += outer.steps * method.draws * (samples * loop + real)
        trained = (validation.steps or method.steps) * samples * one.training
        found["inner"] += times * validation.initialisations * trained
        found["scoring"] += times * validation.initialisations * rows * one.total
        if outer.hard_mining is not None:
            again = -(-outer.steps // outer.hard_mining.every)
            found["inner"] += again * method.steps * samples * one.training
            found["scoring"] += again * sizes["train"] * one.total
    return found


def counted(config: Evaluate) -> bool:
    """Whether a cell is one of these; the variants of a robust protocol are not counted, as those on text."""
    return isinstance(config.recipe, OnVectors) and not isinstance(config.protocol, RobustOnVectors)


def of_training(config: Evaluate, manifest: dict[str, Any]) -> Kinds:
    """One initialisation's training, with the scoring that selects a moment."""
    recipe, student = config.recipe, config.student
    assert isinstance(recipe, OnVectors)
    assert student is not None
    one, C, sizes = forward(student, manifest), len(manifest["classes"]), manifest["sizes"]
    samples = sizes["train"] if config.shots is None else config.shots * C
    looked = 0
    if recipe.select is not None:
        looked = len(recipe.checks_on(samples)) * min(recipe.select.examples or sizes["dev"], sizes["dev"])
    training = recipe.steps_on(samples) * recipe.batch_of(samples) * one.training
    return {"inner": training, "scoring": looked * one.total}


def of_scoring(config: Evaluate, manifest: dict[str, Any]) -> Kinds:
    """One initialisation on all of the splits."""
    assert config.student is not None
    rows = sum(manifest["sizes"][name] for name in config.splits)
    return {"scoring": rows * forward(config.student, manifest).total}


def forward(student: VectorNetwork, manifest: dict[str, Any]) -> Forward:
    """One pass of a student of this task."""
    return Forward.of(student, manifest["vectors"]["width"], len(manifest["classes"]))
