from typing import Literal

import pytest

from pipeline.config import GradientSteps, Validation
from pipeline.config.loops import Learned
from pipeline.report.collect import collect
from pipeline.report.layout import layout
from pipeline.report.words.cells import REAL, recipe, rule, selection
from pipeline.report.words.rows import row_of
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric

CORESETS = [
    {"name": "el2n", "keep": "lowest"},
    {"name": "el2n"},
    {"name": "loss_rank", "keep": "highest"},
    {"name": "loss_rank"},
    {"name": "moderate"},
    {"name": "k_centres", "centres": "kmeans"},
    {"name": "k_centres"},
    {"name": "herding"},
]
NEAREST = ", the row nearest to the mean of its class"
FINETUNE = {"evaluate.protocol": [{"name": "finetune"}]}


def of(*methods, **protocol):
    given = {"evaluate.protocol": [{"name": "finetune"} | protocol]} if protocol else FINETUNE
    return {"distill.method": list(methods)} | given


def labels(experiment):
    plan = layout(experiment.cells, experiment.report.table)
    return [plan.labels[row] for row in plan.rows]


def one(fabric, block):
    (cell,) = fabric.experiment(block).cells
    return cell


class Mine(Learned):
    """A learned method that no words were written for."""

    name: Literal["mine"] = "mine"
    validation: Validation = Validation()


def test_a_method_without_words_is_told_apart_by_what_selected_it(fabric: Fabric):
    (cell,) = fabric.experiment({}).cells
    rows = {}
    for split in ("dev", "test"):
        made = cell.source.model_copy(update={"method": Mine(validation=Validation(split=split))})
        own = cell.model_copy(update={"source": made})
        rows[split] = row_of(own)
        assert isinstance(own.recipe, GradientSteps)
        assert recipe(own) == "ddal (revision 2: the gradient steps that the set gives)"
    assert [rows[split].on_test for split in ("dev", "test")] == [False, True]
    assert rows["dev"] < rows["test"]


def test_coresets_stand_between_random_real_and_distilled_sets(fabric: Fabric):
    found = labels(fabric.experiment(of(*CORESETS), FULL, {}, RANDOM, MAJORITY))
    assert found == ["majority", *REAL[:-1], "HL", "full data"]  # the last one needs a language model
    assert REAL == (
        "random real", "herding", "k-centres", "k-centres (k-means)", "moderate", "loss rank (lowest)",
        "loss rank (highest)", "EL2N", "EL2N (lowest)", "rank",
    )  # fmt: skip


def test_budgets_and_shots_are_rows_of_their_own(fabric: Fabric):
    grid = of({"name": "herding"}) | {
        "distill.method.shots": [5, 1],
        "distill.method.budget": ["sqrt", "prior", "uniform"],
    }
    assert labels(fabric.experiment(grid)) == [
        f"herding{budget}, {shots}"
        for budget in ("", ", by prior", ", by square root of the prior")
        for shots in ("1 shot", "5 shots")
    ]


def test_both_recipes_are_rows_of_their_own(fabric: Fabric):
    steps = [{"name": "ddal", "step_sizes": sizes} for sizes in ([0.1], [0.2], [0.1, 0.1, 0.1])]
    grid = {"distill.method": [{"name": "random"}], "evaluate.protocol": [*steps, {"name": "finetune"}]}
    assert labels(fabric.experiment(grid)) == [
        "random real, 1 shot",
        "random real, gradient steps, 1 step, 1 shot",
        "random real, gradient steps, 3 steps, 1 shot, same",
    ]


@pytest.mark.parametrize("method", [{"name": "random"}, *CORESETS])
def test_they_compete_with_distilled_sets(fabric: Fabric, method):
    row = row_of(one(fabric, of(method)))
    assert row.competes
    assert row.shots == 1
    assert row.kind == ("random" if method["name"] == "random" else "coreset")


def test_options_that_change_no_row_are_hyper_parameters(fabric: Fabric):
    """Of which dev chooses."""
    experiment = fabric.experiment(of({"name": "herding"}, {"name": "herding", "pooling": "mean"}))
    fabric.fill(experiment, lambda c: {"dev": [0.6 + 0.1 * (c.source.method.pooling == "mean")], "test": [0.5]})
    (entry,) = collect(experiment, fabric.store).entries.values()
    assert entry.choice(short=True) == "pooling=mean"


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "herding", "shots": 2}, "first-token vectors of the frozen encoder (the same for every seed)"),
        ({"name": "herding"}, f"first-token vectors of the frozen encoder{NEAREST} (the same for every seed)"),
        ({"name": "k_centres", "start": "random"}, "first-token vectors of the frozen encoder"),
        ({"name": "moderate", "pooling": "mean"}, "mean-token vectors of the frozen encoder (the same for every seed)"),
        ({"name": "k_centres", "training": {"steps": 1}}, f"first-token vectors of the encoder after 1 step{NEAREST}"),
        (
            {"name": "k_centres", "centres": "kmeans"},
            f"first-token vectors of the frozen encoder{NEAREST} (the same for every seed)",
        ),
        (
            {"name": "herding", "candidates": 2000},
            f"first-token vectors of the frozen encoder{NEAREST}, among 2,000 rows",
        ),
        ({"name": "el2n"}, "5 students trained for 200 steps on the training split"),
        (
            {"name": "loss_rank", "trainings": 1, "training": {"epochs": 2}},
            "1 student trained for 2 epochs on the training split",
        ),
        ({"name": "random"}, None),
    ],
)
def test_rules_in_words(fabric: Fabric, method, words):
    assert rule(one(fabric, of(method)).source) == words


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (MAJORITY, "nothing is trained"),
        (RANDOM, "AdamW, step size 0.0001, batch 64 at most, 200 steps"),
        (FULL | {"evaluate.protocol.epochs": [1]}, "AdamW, step size 0.0001, batch 64 at most, 1 epoch"),
        (
            FULL | {"evaluate.protocol.epochs": [10], "evaluate.protocol.select": ["dev"]},
            "AdamW, step size 0.0001, batch 64 at most, 10 epochs, the best by dev loss is kept",
        ),
        ({}, "1 gradient step with learned step sizes"),
        ({"distill.method.steps": [3]}, "3 gradient steps with learned step sizes"),
        (
            {"distill.method": [{"name": "random"}], "evaluate.protocol": [{"name": "ddal", "step_sizes": [0.1, 0.1]}]},
            "2 gradient steps of size 0.1 on all samples",
        ),
        (
            {"distill.method": [{"name": "random"}], "evaluate.protocol": [{"name": "ddal", "step_sizes": [0.2, 0.1]}]},
            "2 gradient steps of size 0.2, 0.1 on all samples",
        ),
    ],
)
def test_recipes_in_words(fabric: Fabric, block, words):
    cell = one(fabric, block)
    assert recipe(cell) == f"{cell.protocol.name} (revision {cell.protocol.revision}: {words})"


def test_another_revision_is_said(fabric: Fabric):
    (cell,) = fabric.experiment({"evaluate.protocol.revision": [7]}).cells
    assert recipe(cell).startswith("ddal (revision 7: ")


def test_selection_in_words(fabric: Fabric):
    chosen = {"epochs": 3, "select": {"by": "accuracy"}}
    assert selection(one(fabric, of({"name": "full"}, **chosen))) == "epoch by dev accuracy"
    assert selection(one(fabric, FULL)) == "none"
    assert selection(one(fabric, {"evaluate.protocol": [{"name": "finetune"} | chosen]})) == (
        "dev loss, epoch by dev accuracy"
    )


def test_captions_name_recipes_with_their_revisions_and_rules(fabric: Fabric):
    from pipeline.report.tables import results_table

    experiment = fabric.experiment(of({"name": "herding"}, {"name": "moderate"}), {}, RANDOM)
    fabric.fill(experiment, lambda cell: {"test": [0.5]})
    caption = results_table(experiment, collect(experiment, fabric.store)).caption
    finetune, ddal = (recipe(experiment.cells[at]) for at in (0, 2))
    assert f"Students: random real, herding, moderate: {finetune}; HL: {ddal}." in caption
    assert (
        f"Coresets are real sentences chosen by: herding: first-token vectors of the frozen encoder{NEAREST} (the same "
        "for every seed); moderate: first-token vectors of the frozen encoder (the same for every seed)."
    ) in caption
    plain = fabric.experiment({}, name="plain")
    fabric.fill(plain, lambda cell: {"test": [0.5]})
    assert not any("Coresets" in line for line in results_table(plain, collect(plain, fabric.store)).caption)
