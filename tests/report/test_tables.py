import math

import pytest

from pipeline.report.collect import collect
from pipeline.report.tables import long_form, results_table, task_table
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric


def built(fabric, experiment):
    return results_table(experiment, collect(experiment, fabric.store))


def column(table, start):
    (name,) = [name for name in table.frame.columns if name.startswith(start)]
    return list(table.frame[name])


def standard(fabric, scores, *grids, **more):
    """One-run-per-method experiment: scores by method label."""
    experiment = fabric.experiment(
        MAJORITY, RANDOM, {"distill.method.labels": ["hard", "unrestricted"]}, FULL, *grids, **more
    )
    keys = {"hard": "HL", "unrestricted": "SL"}
    fabric.fill(
        experiment, lambda c: scores.get(keys.get(getattr(c.source.method, "labels", ""), c.source.method.name))
    )
    return experiment


SCORES = {
    "majority": {"test": [0.5]},
    "random": {"test": [0.52, 0.56, 0.54]},
    "HL": {"test": [0.6, 0.7, 0.8]},
    "SL": {"test": [0.72, 0.76, 0.74]},
    "full": {"test": [0.8]},
}


def test_entries_are_mean_and_sample_std_in_percent(fabric: Fabric):
    table = built(fabric, standard(fabric, SCORES))
    assert column(table, "method") == ["majority", "random real", "HL", "SL", "full data"]
    assert column(table, "sst2: accuracy %, 1,234 test rows") == [
        "50.0",
        "54.0 ± 2.0",
        "70.0 ± 10.0",
        "74.0 ± 2.0",
        "80.0",
    ]
    assert column(table, "n (") == ["1 × 1", "1 × 3", "1 × 3", "1 × 3", "1 × 1"]
    assert column(table, "% of full data") == ["62.5", "67.5", "87.5", "92.5", "100.0"]
    assert column(table, "distillation s") == ["12.0"] * 5
    assert column(table, "training s") == ["1.0", "2.0", "2.0", "2.0", "1.0"]


def test_without_tests_nothing_is_best(fabric: Fabric):
    """No predictions, no tests: a higher mean alone is not a mark."""
    assert built(fabric, standard(fabric, SCORES)).best == frozenset()


def test_sizes_that_differ_between_tasks_stand_in_the_entries(fabric: Fabric):
    experiment = fabric.experiment({}, tasks=[fabric.task("one"), fabric.task("two")])
    fabric.fill(experiment, lambda c: {"test": [0.5, 0.6] if c.source.source.task.name == "one" else [0.5, 0.5, 0.5]})
    table = built(fabric, experiment)
    assert column(table, "one") == ["55.0 ± 7.1 (n = 1 × 2)"]
    assert column(table, "two") == ["50.0 ± 0.0 (n = 1 × 3)"]
    assert column(table, "n (") == ["see entries"]
    assert column(table, "training s (one / two)") == ["1.5 / 2.0"]


def test_names_of_columns_that_are_longer_than_their_numbers_are_not_repeated(fabric: Fabric):
    names = ["reviews_of_films_in_long_sentences", "news_of_the_world_in_headlines"]
    table = built(fabric, fabric.experiment({}, tasks=[fabric.task(name) for name in names]))
    assert [title for title in table.frame.columns if title.startswith(("% of", "training"))] == [
        "% of full data (in the order of the columns)",
        "training s (in the order of the columns)",
    ]


def test_without_runs_an_entry_says_missing_or_failed(fabric: Fabric):
    experiment = standard(fabric, {"SL": SCORES["SL"]})
    fabric.fail(experiment.cells[1], "boom")
    fabric.fail(experiment.cells[2].source, "out of memory")
    table = built(fabric, experiment)
    assert column(table, "sst2")[:4] == ["missing", "missing", "failed", "74.0 ± 2.0"]
    assert column(table, "% of full data") == ["–"] * 5
    assert any("out of memory" in line and "stage distill is failed" in line for line in table.unfinished)
    assert table.cells_unfinished == 4
    assert [" and 2 more of sst2: " in line for line in table.unfinished] == [True, False]  # the failed one is alone


def test_what_the_grid_does_not_hold_is_a_dash(fabric: Fabric):
    experiment = fabric.experiment(
        {"prepare.task": [fabric.task("one"), fabric.task("two")]}, RANDOM | {"prepare.task": [fabric.task("two")]}
    )
    fabric.fill(experiment, lambda c: {"test": [0.5, 0.6]})
    table = built(fabric, experiment)
    assert column(table, "one") == ["–", "55.0 ± 7.1"]
    assert column(table, "two") == ["55.0 ± 7.1", "55.0 ± 7.1"]
    assert table.unfinished == ()


def test_the_papers_numbers_have_their_own_columns(fabric: Fabric):
    experiment = standard(fabric, SCORES | {"SL": None}, report={"paper": True})
    collected = collect(experiment, fabric.store)
    table = results_table(experiment, collected)
    assert column(table, "sst2: paper (BERT-base)") == ["50.9", "", "81.6 ± 2.4", "82.5 ± 1.6", "92.7"]
    others = table.frame.drop(columns="sst2: paper (BERT-base)").to_csv() + long_form(collected).to_csv()
    assert column(table, "sst2: accuracy")[3] == "missing"
    assert not any(number in others for number in ("50.9", "81.6", "82.5", "92.7"))
    assert any("not ours" in sentence for sentence in table.caption)


def test_no_paper_column_unless_asked_and_known(fabric: Fabric):
    silent = built(fabric, standard(fabric, SCORES))
    unknown = built(fabric, fabric.experiment(tasks=[fabric.task("rotten_tomatoes")], report={"paper": True}))
    for table in (silent, unknown):
        assert not any("paper" in name for name in table.frame.columns)
        assert not any("Maekawa" in sentence for sentence in table.caption)


def test_long_form(fabric: Fabric):
    experiment = standard(fabric, SCORES)
    frame = long_form(collect(experiment, fabric.store)).set_index(["row", "metric", "split"])
    row = frame.loc[("SL", "accuracy", "test")]
    half = 4.302652730 * 0.02 / math.sqrt(3)  # t(0.975, 2)
    assert (row["mean"], row["std"], row["ci_low"], row["ci_high"]) == pytest.approx(
        (0.74, 0.02, 0.74 - half, 0.74 + half)
    )
    assert (row["std_init"], row["ci_over"]) == (pytest.approx(0.02), "initialisations")
    assert row[["std_seed"]].isna().all(), "one set cannot tell"
    assert (row["n"], row["n_seed"], row["n_init"], row["n_split"], row["shots"], row["steps"]) == (
        3,
        1,
        3,
        1234,
        1,
        1,
    )
    assert (row["task"], row["model"], row["selection"], row["chosen"]) == ("sst2", "bert-tiny", "dev loss", "")
    assert (row["distill_seconds"], row["train_seconds"], row["seconds"]) == (12.0, 2.0, 18.0)
    single = frame.loc[("majority", "accuracy", "test")]
    assert single[["std", "ci_low", "ci_high", "shots"]].isna().all()
    assert frame.loc[("SL", "loss", "test")]["mean"] == pytest.approx(0.26)


def test_nested_runs_in_the_table_and_in_the_long_form(fabric: Fabric):
    # set means 0.5 and 0.6: std 0.0707; within: variance 0.0008 each; component 0.005 - 0.0004
    experiment = fabric.experiment({"distill.seed": [0, 1]})
    fabric.fill(experiment, lambda c: {"test": [0.48 + c.source.seed / 10, 0.52 + c.source.seed / 10]})
    collected = collect(experiment, fabric.store)
    assert column(results_table(experiment, collected), "sst2") == [f"55.0 ± {100 * math.sqrt(0.0008):.1f} / 6.8"]
    row = long_form(collected).set_index(["row", "metric", "split"]).loc[("HL", "accuracy", "test")]
    half = 12.70620474 * math.sqrt(0.005 / 2)  # t(0.975, 1), of set means
    assert (row["mean"], row["std_init"], row["std_seed"]) == pytest.approx((0.55, 0.0008**0.5, 0.0046**0.5))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((0.55 - half, 0.55 + half))
    assert (row["n"], row["n_init"], row["n_seed"], row["ci_over"]) == (4, 2, 2, "sets")


def test_long_form_of_nothing_is_an_empty_table_with_its_columns(fabric: Fabric):
    frame = long_form(collect(fabric.experiment(), fabric.store))
    assert frame.empty
    assert {"task", "row", "mean", "selection"} <= set(frame.columns)


def test_task_table(fabric: Fabric):
    experiment = standard(fabric, SCORES)
    record = task_table(experiment, collect(experiment, fabric.store)).frame.iloc[0].to_dict()
    assert record == {
        "task": "sst2",
        "metric": "accuracy %",
        "classes": "2",
        "train": "90",
        "dev": "10",
        "test": "1,234",
        "largest class % of test": "81.0",
        "dev is": "carved from train: 10 %, seed 42",
        "test is": "carved from train: 10 %, seed 42",
    }


def test_task_table_before_stage_1(fabric: Fabric):
    experiment = fabric.experiment(tasks=["sst2"])
    record = task_table(experiment, collect(experiment, fabric.store)).frame.iloc[0]
    assert (record["classes"], record["test"], record["test is"]) == ("?", "?", "the source's 'validation'")
