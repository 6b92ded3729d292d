"""Rows of students on vectors: what they are called, what is compared with what, whose full data is the whole."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.report.collect import collect
from pipeline.report.figures.budgets import series
from pipeline.report.layout import layout
from pipeline.report.pairs import asked_pairs, same_budget
from pipeline.report.robustness.matrix import FACTORS
from pipeline.report.tables import results_table
from pipeline.report.words.cells import recipe, selection
from pipeline.report.words.rows import row_of
from tests.report.report_fabric import Fabric

MLP = {"name": "vectors", "student": "mlp"}
TRANSFORMER = {"name": "vectors", "student": "transformer"}
OWN = {"name": "vectors"}
RAT = {"name": "bptt", "window": 40, "steps": 100, "shots": 5}


def on_vectors(fabric: Fabric, *blocks: tuple[list[dict[str, Any]], list[dict[str, Any]]], **more: Any) -> Any:
    grids = [
        {"prepare.vectors": ["cls"], "distill.method": methods, "evaluate.protocol": protocols} | more
        for methods, protocols in blocks
    ]
    return fabric.experiment(*grids)


def labels(experiment: Any) -> list[str]:
    plan = layout(experiment.cells, "table2")
    return [plan.labels[row] for row in plan.rows]


def test_rows_say_who_learns_and_how_sets_were_made(fabric: Fabric) -> None:
    experiment = on_vectors(
        fabric,
        ([{"name": "random"}, {"name": "full"}], [MLP, TRANSFORMER]),
        ([{"name": "bptt"}, RAT, RAT | {"start": "end"}, RAT | {"boost": {"stages": [1, 5], "beta": 0.3}}], [OWN]),
        ([{"name": "bptt"}], [TRANSFORMER]),
    )
    assert labels(experiment) == [
        "random real, MLP, 1 shot",
        "random real, Transformer, 1 shot",
        "Full-BPTT (T 40), MLP, 1 shot",
        "RaT-BPTT (W 40, T 100), MLP, 5 shots",
        "RaT-BPTT (W 40, T 100) + Boost, β = 0.3, MLP, 5 shots",
        "T-BPTT (W 40, T 100), MLP, 5 shots",
        "Full-BPTT (T 40, made for MLP), Transformer, 1 shot",
        "full data, MLP",
        "full data, Transformer",
    ]


def test_other_lengths_and_published_recipes_are_other_rows(fabric: Fabric) -> None:
    protocols = [MLP, MLP | {"steps": 5000}, MLP | {"epochs": 1}, {"name": "published_mlp"}]
    experiment = on_vectors(fabric, ([{"name": "random"}], [*protocols, {"name": "published_transformer"}]))
    assert labels(experiment) == [
        "random real, MLP",
        "random real, MLP, 5000 steps",
        "random real, MLP, 1 epoch",
        "random real, MLP (published recipe)",
        "random real, Transformer (published recipe)",
    ]


def test_prefixes_are_rows_of_their_own_budget(fabric: Fabric) -> None:
    boosted = RAT | {"boost": {"stages": [1, 5], "beta": 0.3}}
    experiment = on_vectors(fabric, ([boosted], [OWN]), **{"evaluate.prefix": [None, 1, 2]})
    assert [row_of(cell).shots for cell in experiment.cells] == [5, 1, 2]
    assert labels(experiment)[0] == "RaT-BPTT (W 40, T 100) + Boost, β = 0.3, MLP, 1 shot"
    fabric.fill(experiment, lambda cell: {"dev": [0.6] * 3, "test": [0.5 + 0.1 * cell.shots / 5] * 3})
    collected = collect(experiment, fabric.store)
    (points,) = series(collected, collected.layout.columns[0], "shots", "MLP").values()
    assert [(point.x, round(point.mean)) for point in points] == [(1, 52), (2, 54), (5, 60)]


def test_students_are_compared_with_their_own_kind(fabric: Fabric) -> None:
    experiment = on_vectors(
        fabric,
        ([{"name": "random", "shots": 5}], [MLP, TRANSFORMER]),
        ([RAT], [OWN]),
        ([{"name": "full"}], [MLP | {"epochs": 3}]),
    )
    plan = layout(experiment.cells, "table2")
    mlp, transformer, rat, _ = plan.rows
    assert same_budget(mlp, rat)
    assert not same_budget(transformer, rat)
    assert asked_pairs([("RaT-BPTT (W 40, T 100), MLP", "random real, MLP")], plan) == [(rat, mlp)]
    fabric.fill(experiment, lambda cell: {"dev": [0.5] * 3, "test": [0.8 if row_of(cell).kind == "full" else 0.4] * 3})
    collected = collect(experiment, fabric.store)
    column = collected.layout.columns[0]
    assert collected.reference("full", column) is None
    full = collected.reference("full", column, "MLP")
    assert full is not None
    assert full.estimate.mean == pytest.approx(0.8)
    frame = results_table(experiment, collected).frame
    share = frame.set_index(frame.columns[0])["% of full data"]
    assert share["RaT-BPTT (W 40, T 100), MLP"] == "50.0"
    assert share["random real, Transformer"] == "–"


def test_recipes_and_selection_in_words(fabric: Fabric) -> None:
    best = MLP | {"select": "dev", "student": {"name": "mlp", "width": 64, "dropout": 0.1}}
    experiment = on_vectors(fabric, ([{"name": "full"}], [best]), ([{"name": "random"}], [{"name": "published_mlp"}]))
    first, second = experiment.cells
    assert recipe(first) == (
        "vectors (revision 1: mlp, width 64, dropout 0.1; Adam, step size 0.001, batches of 256 at most, 1000 steps, "
        "the best moment by dev loss is kept)"
    )
    assert selection(first) == "moment of training by dev loss"
    assert recipe(second) == (
        "published_mlp (revision 1: mlp, width 256; Adam, step size 0.001, batches of all samples, 200 epochs)"
    )


def test_columns_do_not_depend_on_whether_there_are_vectors(fabric: Fabric) -> None:
    experiment = fabric.experiment(
        {"distill.method": [{"name": "random"}], "evaluate.protocol": [{"name": "finetune"}]},
        {"prepare.vectors": ["mean"], "distill.method": [{"name": "random"}], "evaluate.protocol": [MLP]},
    )
    plan = layout(experiment.cells, "table2")
    assert len(plan.columns) == 1
    assert [row.student for row in plan.rows] == ["", "MLP"]


def test_every_factor_of_both_robust_protocols_has_a_name() -> None:
    assert {"optimizer", "learning_rate", "steps", "dropout", "student"} <= FACTORS.keys()
