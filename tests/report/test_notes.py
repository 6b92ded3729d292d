import pytest
from report_fabric import FULL, RANDOM, Fabric

from pipeline.errors import InputError
from pipeline.report.collect import collect
from pipeline.report.tables import results_table


def notes(fabric, experiment):
    return results_table(experiment, collect(experiment, fabric.store))


def compared(fabric, pair, *grids, scores, **more):
    experiment = fabric.experiment(*grids, report={"compare": [pair]}, **more)
    fabric.fill(experiment, scores)
    return notes(fabric, experiment).differences


def by_method(**scores):
    return lambda cell: {"test": scores[cell.source.method.name]}


def test_selection_on_test_is_said_loudly(fabric: Fabric):
    experiment = fabric.experiment({"distill.method.validation.split": ["test"]})
    fabric.fill(experiment, lambda cell: {"test": [0.5]})
    table = notes(fabric, experiment)
    assert table.caption[0].startswith("SELECTED ON THE TEST SPLIT, as the paper did: HL.")
    assert not any("used for no choice" in sentence for sentence in table.caption)


def test_selection_on_dev_is_said(fabric: Fabric):
    experiment = fabric.experiment({})
    fabric.fill(experiment, lambda cell: {"test": [0.5]})
    caption = notes(fabric, experiment).caption
    assert caption[0] == "Checkpoints of distilled sets: dev loss; the test split was used for no choice."
    assert not any("SELECTED" in sentence for sentence in caption)


def test_the_search_and_its_outcome_are_named(fabric: Fabric):
    experiment = fabric.experiment({"distill.method.outer.lr": [0.01, 0.1], "distill.method.learning_rate": [0.2, 0.3]})
    fabric.fill(
        experiment,
        lambda c: {"dev": [c.source.method.outer.lr], "test": [0.5]} if c.source.method.learning_rate == 0.2 else None,
    )
    assert (
        "HL: searched distill.method.learning_rate, distill.method.outer.lr; chosen by the column's metric on dev: "
        "sst2 learning_rate=0.2, lr=0.1 (best of 2 finished of 4)."
    ) in notes(fabric, experiment).caption


def test_scores_on_dev_are_said(fabric: Fabric):
    experiment = fabric.experiment(splits=["dev"])
    fabric.fill(experiment, lambda cell: {"dev": [0.5]})
    table = notes(fabric, experiment)
    assert any("scored on DEV" in sentence for sentence in table.caption)
    assert "10 dev rows" in table.frame.columns[1]


def test_a_difference_by_hand(fabric: Fabric):
    # means 0.8, 0.5; variances 0.01, n 3: se = sqrt(0.02/3), 4 degrees of freedom, t = 2.776445: ± 0.2267
    (line,) = compared(
        fabric, ["HL", "random real"], {}, RANDOM | {"distill.seed": [0, 1, 2], "evaluate.initialisations": [1]},
        scores=lambda c: {"test": [0.7, 0.8, 0.9] if c.source.method.name == "ddal" else [0.4 + c.source.seed / 10]},
    )  # fmt: skip
    assert line == (
        "sst2: HL − random real = +30.0 points, 95 % interval [7.3, 52.7] (Welch, n = 3 and 3). It covers, for HL, "
        "3 initialisations of one distilled set, not what another distilled set would give; for random real, 3 draws "
        "of real samples, each with one initialisation, the same for all."
    )


def test_what_an_interval_over_sets_and_initialisations_covers(fabric: Fabric):
    (line,) = compared(
        fabric,
        ["HL", "full data"],
        {"distill.seed": [0, 1]},
        FULL,
        scores=by_method(ddal=[0.5, 0.6], full=[0.8, 0.9, 0.7]),
    )
    assert "for HL, 4 initialisations of 2 distilled sets, counted as independent runs" in line
    assert "for full data, 3 training runs." in line


def test_one_run_gives_no_interval(fabric: Fabric):
    (line,) = compared(fabric, ["HL", "full data"], {}, FULL, scores=by_method(ddal=[0.5, 0.6], full=[0.8]))
    assert line == "sst2: HL − full data = -25.0 points (n = 2 and 1); no interval: a single run of full data."


def test_a_difference_that_cannot_be_computed_says_why(fabric: Fabric):
    (line,) = compared(
        fabric,
        ["HL", "full data"],
        {},
        FULL,
        scores=lambda c: {"test": [0.5]} if c.source.method.name == "ddal" else None,
    )
    assert line == "sst2: HL − full data: not computed, full data is missing."


def test_rows_of_equal_budgets_are_paired(fabric: Fabric):
    lines = compared(
        fabric, ["HL", "random real"], {"distill.method": [{}, {"shots": 3, "batch_shots": 3}]},
        RANDOM | {"distill.method.shots": [1, 3]}, scores=by_method(ddal=[0.5, 0.6], random=[0.3, 0.4]),
    )  # fmt: skip
    assert [line.split(" = ")[0] for line in lines] == [
        "sst2: HL, 1 step, 1 shot − random real, 1 shot",
        "sst2: HL, 1 step, 3 shots − random real, 3 shots",
    ]


def test_an_unknown_row_is_an_error_with_the_nearest_name(fabric: Fabric):
    with pytest.raises(InputError, match=r"'random reel'.*did you mean 'random real'.*allowed: .*HL"):
        compared(fabric, ["HL", "random reel"], {}, RANDOM, scores=by_method(ddal=[0.5], random=[0.5]))
