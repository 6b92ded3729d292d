"""The work of a cell, from its config alone, against what torch counts while the cell really runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import work
from pipeline.config import DDAL, load
from pipeline.data.prepared import Prepared
from pipeline.store import Store
from pipeline.students.encoder import Student
from tests.students.flop_counter import counted, counted_stages

COUNTED = 0.08  # attention of packed sentences stands on a padded grid, which the formula leaves out


DDAL_STEPS = {"outer": {"steps": 6, "batch_size": 8, "bucket_by_length": True}}
METHODS: list[dict[str, Any]] = [
    {**DDAL_STEPS, "validation": {"every": 4, "initialisations": 2, "examples": 16}},
    {**DDAL_STEPS, "validation": {"split": "none"}, "steps": 3, "shots": 2, "batch_shots": 2, "draws": 2},
    {**DDAL_STEPS, "validation": {"split": "none"}, "estimator": "unroll", "attention_labels": "cls"},
    {**DDAL_STEPS, "validation": {"split": "none"}, "attention_labels": "all"},
]


@pytest.mark.parametrize("method", METHODS)
def test_distilling_and_evaluating_a_learned_set(
    experiment: Callable[..., Path], tmp_path: Path, method: dict[str, Any]
) -> None:
    (cell,) = load(experiment(method=method)).cells
    distill, evaluate = run(cell, Store(tmp_path / "root"))
    folder = Store(tmp_path / "root").cell(cell.source.source).folder
    assert work.of_distill(cell.source, folder).total == pytest.approx(distill, rel=COUNTED)
    assert work.of_evaluate(cell, folder).total == pytest.approx(evaluate, rel=COUNTED)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "random", "shots": 8},
        {"name": "full"},
        {"name": "herding", "shots": 4},
        {"name": "el2n", "shots": 4, "trainings": 2, "training": {"steps": 5, "batch_size": 16}, "candidates": 60},
    ],
)
def test_real_sentences(experiment: Callable[..., Path], tmp_path: Path, method: dict[str, Any]) -> None:
    protocol = {"name": "finetune", "epochs": 2, "batch_size": 8, "select": {"examples": 20}}
    grids = [{"distill.method": [method], "evaluate.protocol": [protocol]}]
    (cell,) = load(experiment(grids=grids)).cells
    distill, evaluate = run(cell, Store(tmp_path / "root"))
    folder = Store(tmp_path / "root").cell(cell.source.source).folder
    assert work.of_distill(cell.source, folder).total == pytest.approx(distill, rel=COUNTED)
    assert work.of_evaluate(cell, folder).total == pytest.approx(evaluate, rel=0.12), "lengths are typical ones"


def run(cell: Any, store: Store) -> tuple[float, float]:
    """FLOPs that torch counted in stages 2 and 3; in 3 without the comparison of the passes with the model."""
    found = counted_stages(cell, store)
    prepared = Prepared(store.cell(cell.source.source).folder)
    student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], "cpu")
    return found[1], found[2] - counted(student.passes)


@pytest.mark.parametrize(
    ("validation", "steps", "times"),
    [({"every": 10}, 25, 3), ({"every": 10}, 30, 3), ({}, 25, 5), ({"split": "none"}, 25, 0)],
)
def test_how_often_a_set_is_scored(validation: dict[str, Any], steps: int, times: int) -> None:
    method = DDAL.model_validate({"name": "ddal", "validation": validation})
    assert work.validations(method, steps, epoch_steps=6) == times


def test_outer_steps_of_epochs() -> None:
    method = DDAL.model_validate({"name": "ddal", "outer": {"epochs": 3, "batch_size": 10, "real_batches": 2}})
    assert (method.outer.planned_steps(rows=107), method.outer.epoch_steps(rows=107)) == (15, 5)
    assert (method.outer.planned_steps(rows=4), method.outer.epoch_steps(rows=4)) == (3, 1)
