import pytest

from pipeline.errors import InputError
from pipeline.report.alternatives import hyper_parameters
from pipeline.report.collect import collect
from pipeline.report.layout import layout
from pipeline.report.pairs import check_choices
from pipeline.report.words.cells import selection
from pipeline.report.words.composed import published_split
from pipeline.report.words.rows import row_of
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric

TABLE3 = [  # steps, shots, batch_shots, label
    (1, 1, 1, "1 step, 1 shot"),
    (1, 3, 3, "1 step, 3 shots"),
    (1, 5, 5, "1 step, 5 shots"),
    (3, 1, 1, "3 steps, 1 shot, same"),
    (5, 1, 1, "5 steps, 1 shot, same"),
    (3, 3, 1, "3 steps, 3 shots, different"),
    (5, 5, 1, "5 steps, 5 shots, different"),
]


def table3_grids():
    return [
        {
            "distill.method": [
                {"labels": "unrestricted", "attention_labels": "cls", "steps": t, "shots": s, "batch_shots": b}
            ]
        }
        for t, s, b, _ in reversed(TABLE3)
    ]


def labels(experiment):
    plan = layout(experiment.cells, experiment.report.table)
    return [plan.labels[row] for row in plan.rows]


def test_table3_has_the_papers_seven_rows_in_its_order(fabric: Fabric):
    experiment = fabric.experiment(*table3_grids(), report={"table": "table3"})
    assert labels(experiment) == [label for *_, label in TABLE3]


def test_table2_rows_in_the_papers_order(fabric: Fabric):
    experiment = fabric.experiment(
        FULL, RANDOM, MAJORITY,
        {
            "distill.method.labels": ["soft", "unrestricted", "hard"],
            "distill.method.attention_labels": ["all", "cls", "none"],
        },
    )  # fmt: skip
    assert labels(experiment) == [
        "majority", "random real", "HL", "SL", "SL (softmax)", "HL + AL", "SL + AL", "SL (softmax) + AL",
        "HL + AL (all)", "SL + AL (all)", "SL (softmax) + AL (all)", "full data",
    ]  # fmt: skip


TRIED = {"distill.method.outer.lr": [0.1, 0.01], "distill.method.learning_rate": [0.5], "distill.seed": [1, 2]}


def test_what_is_told_apart_has_rows_of_its_own(fabric: Fabric):
    """In the order of the file, and only where cells of a row differ."""
    experiment = fabric.experiment(MAJORITY, RANDOM, TRIED, report={"apart": ["distill.method.outer.lr"]})
    plan = layout(experiment.cells, "table2", experiment.report.apart)
    ours = [label for label in plan.labels.values() if label.startswith("HL")]
    assert [plan.labels[row] for row in plan.rows] == ["majority", "random real", *ours]
    assert [label.rpartition(", ")[2] for label in ours] == ["lr=0.1", "lr=0.01"]
    cells = plan.members(experiment.cells)
    assert [len(cells[row, plan.columns[0]]) for row in plan.rows] == [1, 1, 2, 2], "seeds are runs of one row"
    assert len(layout(experiment.cells, "table2").rows) == 3, "otherwise the better one is reported"


def test_telling_apart_what_does_not_differ(fabric: Fabric):
    experiment = fabric.experiment(RANDOM, TRIED, report={"apart": ["distill.method.outer.lrr"]})
    with pytest.raises(InputError) as caught:
        check_choices(experiment)
    assert str(caught.value) == (
        "report.apart: no two cells of a row differ in 'distill.method.outer.lrr' (did you mean "
        "'distill.method.outer.lr'?); allowed: distill.method.outer.lr"
    )
    alone = fabric.experiment(RANDOM, report={"apart": ["distill.method.outer.lr"]})
    with pytest.raises(InputError, match="nothing else differs in a row; leave it out"):
        check_choices(alone)


def test_what_is_told_apart_is_collected_apart(fabric: Fabric):
    """Every row has its own numbers, and none of them was chosen."""
    experiment = fabric.experiment(RANDOM, TRIED, report={"apart": ["distill.method.outer.lr"]})
    for number, cell in enumerate(experiment.cells):
        fabric.finish(cell, {"dev": [0.1 + number / 10], "test": [0.2 + number / 10]})
    collected = collect(experiment, fabric.store)
    ours = [entry for (row, _), entry in collected.entries.items() if row.kind == "ddal"]
    assert [entry.headline.values for entry in ours] == [pytest.approx((0.3, 0.4)), pytest.approx((0.5, 0.6))]
    assert [(entry.axes, entry.planned) for entry in ours] == [((), 1), ((), 1)]
    assert len(collected.places) == len(collected.cells) == 5


def test_inner_optimisers_are_separate_rows(fabric: Fabric):
    settings = [
        {"name": "adam", "eps": 1e-5},
        {"name": "gd"},
        {"name": "momentum"},
        {"name": "momentum", "momentum": 0.5},
    ]
    experiment = fabric.experiment(
        {"distill.method.inner_optimizer": settings, "distill.method.steps": [3], "evaluate.splits": [["dev", "test"]]}
    )
    assert labels(experiment) == ["HL", "HL (Adam)", "HL (SGD with momentum)"]
    plan = layout(experiment.cells, "table2")
    assert [len(cells) for cells in plan.members(experiment.cells).values()] == [1, 1, 2]


def test_several_budgets_are_separate_rows(fabric: Fabric):
    experiment = fabric.experiment(
        RANDOM | {"distill.method.shots": [1, 3]},
        {
            "distill.method": [
                {"shots": 3, "batch_shots": 3},
                {"shots": 3, "batch_shots": 1, "steps": 3, "order": "random"},
            ]
        },
    )
    assert labels(experiment) == [
        "random real, 1 shot",
        "random real, 3 shots",
        "HL, 1 step, 3 shots",
        "HL, 3 steps, 3 shots, random",
    ]


def test_table3_names_the_method_where_there_are_several(fabric: Fabric):
    experiment = fabric.experiment({"distill.method.labels": ["hard", "unrestricted"]}, report={"table": "table3"})
    assert labels(experiment) == ["HL, 1 step, 1 shot", "SL, 1 step, 1 shot"]


def test_rows_selected_on_test_stand_apart(fabric: Fabric):
    experiment = fabric.experiment({"distill.method.validation.split": ["dev", "test", "none"]})
    assert labels(experiment) == ["HL", "HL [selected on test]"]
    assert [selection(cell) for cell in experiment.cells] == ["dev loss", "TEST loss (as published)", "last step"]


def test_seeds_and_numbers_of_runs_are_no_hyper_parameters(fabric: Fabric):
    experiment = fabric.experiment(
        {
            "distill.seed": [0, 1],
            "evaluate.seed": [0, 1],
            "evaluate.initialisations": [2, 3],
            "evaluate.splits": [["test"], ["dev"]],
        },
        {"distill.method.outer.lr": [0.5], "distill.seed": [0]},
    )
    found = {repr(hyper_parameters(cell)) for cell in experiment.cells}
    assert len(experiment.cells) == 17
    assert len(found) == 2
    assert hyper_parameters(experiment.cells[-1])["distill.method.outer.lr"] == 0.5


def test_one_column_per_task_encoder_and_split(fabric: Fabric):
    other = fabric.folder / "other-model"
    other.mkdir()
    (other / "config.json").write_text("{1}")
    experiment = fabric.experiment(
        {"prepare.model": [str(fabric.model), str(other)], "prepare.seed": [1, 2], "prepare.max_length": [16, 32]}
    )
    plan = layout(experiment.cells, "table2")
    assert [column.title for column in plan.columns] == [
        "sst2 (seed=1), bert-tiny",
        "sst2 (seed=2), bert-tiny",
        "sst2 (seed=1), other-model",
        "sst2 (seed=2), other-model",
    ]
    assert len(plan.places) == 8  # max_length is a hyper-parameter of the same column


def test_a_column_shows_dev_only_where_no_cell_asks_for_test(fabric: Fabric):
    mixed = fabric.experiment({"evaluate.splits": [["dev"], ["dev", "test"]]})
    only = fabric.experiment({"evaluate.splits": [["dev"]]})
    assert layout(mixed.cells, "table2").columns[0].split == "test"
    assert layout(only.cells, "table2").columns[0].split == "dev"


def test_published_split(fabric: Fabric):
    (cell,) = fabric.experiment().cells
    assert published_split(cell.source.source, "test") is None
    (hub,) = fabric.experiment(tasks=["sst2"]).cells
    assert published_split(hub.source.source, "test") == "validation"
    assert published_split(hub.source.source, "dev") is None


@pytest.mark.parametrize(("block", "competes"), [(MAJORITY, False), (FULL, False), (RANDOM, True), ({}, True)])
def test_only_small_sets_compete(fabric: Fabric, block, competes):
    (cell,) = fabric.experiment(block).cells
    assert row_of(cell).competes is competes
