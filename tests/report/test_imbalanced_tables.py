"""Imbalanced tasks in tables: two metrics beside the task's own, and a row per correction."""

import csv
import json

import pytest

from pipeline.report.collect import collect
from pipeline.report.tables import results_table
from tests.report.report_fabric import MAJORITY, Fabric


def scored(fabric, experiment, metrics, counts=(279, 129), split="test"):
    """Fills every cell: metric -> values of its initialisations, the same for every cell."""
    fabric.fill(experiment, lambda cell: {split: [0.5] * 2})
    for cell in experiment.cells:
        folder = fabric.store.cell(cell).folder
        with open(folder / "results.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["initialisation", "split", "metric", "value", "seconds"])
            for metric, values in metrics.items():
                writer.writerows([at, split, metric, value, 1.0] for at, value in enumerate(values))
        manifest = fabric.store.cell(cell.source.source).folder / "manifest.json"
        facts = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(facts | {"class_counts": {split: list(counts)}}))
    return results_table(experiment, collect(experiment, fabric.store))


MEASURED = {"accuracy_f1": [0.7, 0.8], "balanced_accuracy": [0.55, 0.65], "mcc": [0.1, 0.3]}


@pytest.fixture
def mrpc(fabric: Fabric):
    return fabric.experiment(tasks=[fabric.task("mrpc", metric="accuracy_f1")])


def test_balanced_accuracy_and_mcc_stand_beside_the_tasks_metric(fabric: Fabric, mrpc):
    table = scored(fabric, mrpc, MEASURED)
    names = list(table.frame.columns)[1:4]
    assert names == [
        "mrpc: mean of accuracy and F1 %, 1,234 test rows",
        "mrpc: balanced accuracy %",
        "mrpc: MCC × 100",
    ]
    assert [table.frame[name][0] for name in names] == ["75.0 ± 7.1", "60.0 ± 7.1", "20.0 ± 14.1"]
    (said,) = [sentence for sentence in table.caption if "Matthews" in sentence]
    assert said.startswith("mrpc: the largest class has at least 1.5 times the rows of the smallest")


@pytest.mark.parametrize(
    ("counts", "shown"), [((149, 100), False), ((150, 100), True), ((100, 150), True), ((428, 444), False), ([], False)]
)
def test_by_the_rows_of_the_split_that_is_shown(fabric: Fabric, mrpc, counts, shown):
    table = scored(fabric, mrpc, MEASURED, counts)
    assert any("balanced accuracy" in name for name in table.frame.columns) == shown
    assert any("Matthews" in sentence for sentence in table.caption) == shown


def test_what_was_not_measured_or_is_the_metric_itself_has_no_second_column(fabric: Fabric):
    experiment = fabric.experiment(tasks=[fabric.task("own", metric="balanced_accuracy")])
    table = scored(fabric, experiment, {"balanced_accuracy": [0.6, 0.7]})
    assert [name for name in table.frame.columns if name.startswith("own")] == [
        "own: balanced accuracy %, 1,234 test rows"
    ]


def test_rows_by_correction(fabric: Fabric):
    changes = [
        {"loss": "logit_adjustment"},
        {"loss": {"name": "class_weights", "beta": 0.99}},
        {"loss": "class_weights"},
        {"sampling": "balanced"},
        {},
    ]
    experiment = fabric.experiment(MAJORITY, {"distill.method.outer": changes})
    fabric.fill(experiment, lambda cell: {"test": [0.5, 0.6]})
    table = results_table(experiment, collect(experiment, fabric.store))
    assert list(table.frame["method"]) == [
        "majority",
        "HL",
        "HL (balanced batches)",
        "HL (class weights)",
        "HL (class weights, β = 0.99)",
        "HL (logit adjustment, τ = 1)",
    ]
    assert any("students are trained and scored as in the other rows" in sentence for sentence in table.caption)


def test_a_budget_is_a_row_of_its_own_and_the_selection_is_said(fabric: Fabric):
    budgets = [{"shots": 2, "batch_shots": 2}, {"shots": 2, "batch_shots": 2, "budget": "prior"}]
    experiment = fabric.experiment({"distill.method": budgets, "distill.method.validation.by": ["balanced_loss"]})
    fabric.fill(experiment, lambda cell: {"test": [0.5, 0.6]})
    table = results_table(experiment, collect(experiment, fabric.store))
    assert list(table.frame["method"]) == ["HL", "HL (by prior)"]
    assert any("dev balanced loss" in sentence for sentence in table.caption)
    assert not any("students are trained and scored as" in sentence for sentence in table.caption)
