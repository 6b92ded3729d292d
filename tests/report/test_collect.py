import json

import pytest

from pipeline.errors import InputError
from pipeline.report.collect import collect
from tests.report.report_fabric import FULL, RANDOM, Fabric

LR = {"distill.method.learning_rate": [0.01, 0.1, 0.5]}


def only(collected):
    (entry,) = collected.entries.values()
    return entry


def by_lr(scores):
    return lambda cell: scores[cell.source.method.learning_rate]


def test_hyper_parameters_are_chosen_on_dev_never_on_test(fabric: Fabric):
    experiment = fabric.experiment(LR)
    planted = {"dev": [0.6, 0.6], "test": [0.99, 0.99]}  # the best on test, worse on dev
    fabric.fill(
        experiment,
        by_lr(
            {0.01: {"dev": [0.7, 0.5], "test": [0.2, 0.4]}, 0.1: planted, 0.5: {"dev": [0.8, 0.7], "test": [0.5, 0.6]}}
        ),
    )
    entry = only(collect(experiment, fabric.store))
    assert entry.headline.values == (0.5, 0.6)
    assert entry.choice() == "distill.method.learning_rate=0.5"
    assert entry.choice(short=True) == "learning_rate=0.5"
    assert entry.selection == "dev loss; hyper-parameters: dev accuracy, best of 3"


def test_the_choice_is_by_the_tasks_metric_not_by_loss(fabric: Fabric):
    experiment = fabric.experiment(LR, tasks=[fabric.task(metric="mcc")])
    fabric.fill(
        experiment,
        by_lr(
            {
                0.01: {"dev": [-0.5], "test": [0.1]},
                0.1: {"dev": [0.9], "test": [0.3]},
                0.5: {"dev": [0.2], "test": [0.2]},
            }
        ),
    )
    assert only(collect(experiment, fabric.store)).headline.values == (0.3,)


def test_choosing_without_dev_scores_is_refused(fabric: Fabric):
    experiment = fabric.experiment(LR, splits=["test"])
    with pytest.raises(InputError, match=r"learning_rate.*chosen on dev.*evaluate\.splits: \[dev, test\]"):
        collect(experiment, fabric.store)


def test_finished_alternatives_without_dev_rows_are_refused(fabric: Fabric):
    experiment = fabric.experiment(LR)
    fabric.fill(experiment, lambda cell: {"test": [0.5]})
    with pytest.raises(InputError, match="no dev scores"):
        collect(experiment, fabric.store)


def test_one_finished_alternative_needs_no_dev_rows_to_be_chosen(fabric: Fabric):
    experiment = fabric.experiment(LR)
    fabric.fill(experiment, by_lr({0.01: None, 0.1: {"test": [0.5]}, 0.5: None}))
    entry = only(collect(experiment, fabric.store))
    assert (entry.planned, entry.finished, len(entry.problems)) == (3, 1, 2)
    assert entry.choice() == "distill.method.learning_rate=0.1"


def test_distillation_seeds_are_pooled(fabric: Fabric):
    experiment = fabric.experiment({"distill.seed": [3, 1, 2]})
    fabric.fill(experiment, lambda cell: {"test": [cell.source.seed / 10, cell.source.seed / 10 + 0.05]})
    entry = only(collect(experiment, fabric.store))
    assert entry.headline.values == pytest.approx((0.1, 0.15, 0.2, 0.25, 0.3, 0.35))
    assert entry.headline.by_set == (pytest.approx((0.1, 0.15)), pytest.approx((0.2, 0.25)), pytest.approx((0.3, 0.35)))
    assert entry.headline.size == "3 × 2"
    assert (entry.planned, entry.axes, entry.choice()) == (1, (), "")


def test_sets_that_no_seed_changes_are_one_set(fabric: Fabric):
    """Full data with two distillation seeds: the same sentences, other initialisations."""
    experiment = fabric.experiment(FULL | {"distill.seed": [1, 2]})
    fabric.fill(experiment, lambda cell: {"test": [cell.source.seed / 10, cell.source.seed / 10 + 0.05]})
    entry = only(collect(experiment, fabric.store))
    assert entry.headline.by_set == (pytest.approx((0.1, 0.15, 0.2, 0.25)),)
    assert entry.headline.estimate.std_seed is None


def test_seconds_are_means_over_sets_and_over_initialisations(fabric: Fabric):
    experiment = fabric.experiment({"distill.seed": [1, 2]})
    for cell, seconds in zip(experiment.cells, (10.0, 30.0), strict=True):
        fabric.finish(cell, {"dev": [0.5, 0.5, 0.5], "test": [0.5, 0.5, 0.5]}, distill_seconds=seconds)
    entry = only(collect(experiment, fabric.store))
    assert entry.chosen.distill_seconds == 20.0
    assert entry.chosen.train_seconds == 2.0  # runs of 1, 2 and 3 seconds
    assert entry.chosen.seconds == 10 + 30 + 2 * (1 + 2 + 3), "all there was to do for the entry"


def test_the_same_draws_asked_for_twice_count_once(fabric: Fabric):
    experiment = fabric.experiment({"evaluate.initialisations": [2, 3]})
    fabric.fill(experiment, lambda cell: {"test": [0.1, 0.2, 0.3][: cell.initialisations]})
    assert only(collect(experiment, fabric.store)).headline.values == (0.1, 0.2, 0.3)


def test_unequal_numbers_of_runs_per_set_are_said(fabric: Fabric):
    experiment = fabric.experiment({"distill.seed": [1, 2]})
    for cell, values in zip(experiment.cells, ([0.1], [0.2, 0.3]), strict=True):
        fabric.finish(cell, {"test": values})
    assert only(collect(experiment, fabric.store)).headline.size == "3 of 2 sets"


def test_the_stage_that_failed_is_blamed(fabric: Fabric):
    experiment = fabric.experiment(RANDOM | {"distill.seed": [1, 2, 3, 4]})
    done, evaluate, distill, nothing = experiment.cells
    fabric.finish(done, {"test": [0.5]})
    fabric.finish(evaluate, {"test": [0.5]})
    (fabric.store.cell(evaluate).folder / "done.json").unlink()
    fabric.fail(evaluate, "the loss is not finite")
    fabric.fail(distill.source, "out of memory")
    problems = collect(experiment, fabric.store).problems
    assert [(p.slug, p.stage, p.state, p.reason) for p in problems] == [
        (evaluate.slug, "evaluate", "failed", "the loss is not finite"),
        (distill.slug, "distill", "failed", "out of memory"),
        (nothing.slug, "distill", "missing", None),
    ]


def test_a_failed_preparation_is_blamed_for_all_that_follows(fabric: Fabric):
    experiment = fabric.experiment()
    fabric.fail(experiment.cells[0].source.source, "no column 'text'")
    (problem,) = collect(experiment, fabric.store).problems
    assert (problem.stage, problem.state, problem.reason) == ("prepare", "failed", "no column 'text'")


@pytest.mark.parametrize(
    "content", [None, "", "a,b\n1,2\n", "initialisation,split,metric,value,seconds\n0,test,loss,1,1\n"]
)
def test_unreadable_results_are_a_named_problem(fabric: Fabric, content):
    experiment = fabric.experiment()
    fabric.fill(experiment, lambda cell: {"test": [0.5]})
    results = fabric.store.cell(experiment.cells[0]).folder / "results.csv"
    results.unlink() if content is None else results.write_text(content)
    entry = only(collect(experiment, fabric.store))
    assert entry.chosen is None
    assert (entry.state, entry.problems[0].state) == ("unreadable", "unreadable")
    assert "results.csv" in entry.problems[0].reason


def test_results_made_with_another_default_are_refused(fabric: Fabric):
    experiment = fabric.experiment()
    fabric.fill(experiment, lambda cell: {"test": [0.5]})
    stored = fabric.store.cell(experiment.cells[0]).folder / "config.json"
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"seed": 9}))
    with pytest.raises(InputError, match="seed = 9"):
        collect(experiment, fabric.store)
