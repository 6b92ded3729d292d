"""Which rows are compared, and what is said of it: marks, sentences, what is not tested."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from pipeline.errors import InputError
from pipeline.report.collect import collect
from pipeline.report.statistics.comparisons import compare
from pipeline.report.statistics.verdicts import Verdicts
from pipeline.report.tables import results_table
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, SIZES, Fabric

pytestmark = pytest.mark.usefixtures("fewer_draws")
OURS = {"distill.method.labels": ["unrestricted"], "distill.method.attention_labels": ["cls"]}
HL = {"distill.method.labels": ["hard"]}
SEVERAL = {"distill.seed": [0, 1, 2, 3, 4]}
DRAWS = RANDOM | SEVERAL | {"evaluate.initialisations": [1]}


def name_of(cell):
    method = cell.source.method
    return method.name if method.name != "ddal" else "ours" if method.attention_labels == "cls" else "hl"


def filled(fabric, *grids, means, runs=3, sets=0.01, **more):
    """Cells that answer: a mean by name, sets that differ by ``sets``, initialisations by 0.01."""
    experiment = fabric.experiment(*grids, **more)
    random = np.random.default_rng(0)
    for cell in experiment.cells:
        of_set = sets * [-1.0, 1.0, 0.3, -0.3, 0.0][cell.source.seed % 5]
        number = min(runs, cell.initialisations)
        fabric.answer(cell, means[name_of(cell)] + of_set + random.normal(0, 0.01, number))
    return experiment


def table_of(fabric, experiment):
    return results_table(experiment, collect(experiment, fabric.store))


def entries(table):
    return dict(zip(table.frame["method"], table.frame.iloc[:, 1], strict=True))


def test_marks_stand_where_the_difference_holds_and_nowhere_else(fabric: Fabric):
    means = {"random": 0.55, "hl": 0.555, "ours": 0.75}
    table = table_of(fabric, filled(fabric, DRAWS, HL | SEVERAL, OURS | SEVERAL, means=means))
    found = entries(table)
    assert found["random real"].endswith(" †"), "SL + AL is above it"
    assert found["HL"].endswith(" †"), "undecided against random real, below SL + AL"
    assert found["SL + AL"].endswith(" ↑")
    assert not any(mark in found["HL"] for mark in "↑↓‡")
    assert "† / ‡ below / above SL + AL" in " ".join(table.caption)
    without = table_of(fabric, filled(fabric, DRAWS, HL | SEVERAL, means=means, name="without"))
    assert "Marks: ↑ / ↓" in " ".join(without.caption)
    assert "†" not in " ".join(without.caption), "no row of SL + AL"
    tests = table.tests.set_index(["first", "second"])
    assert list(tests.index) == [("HL", "random real"), ("SL + AL", "random real"), ("SL + AL", "HL")]
    assert tests["holds"].tolist() == [False, True, True]


def bold(table):
    return [table.frame["method"][index] for index, _ in sorted(table.best)]


def test_the_best_is_bold_where_it_holds_against_every_other(fabric: Fabric):
    grids = (MAJORITY, DRAWS, HL | SEVERAL, OURS | SEVERAL)
    means = {"majority": 0.95, "random": 0.55, "hl": 0.6, "ours": 0.75}
    assert bold(table_of(fabric, filled(fabric, *grids, means=means))) == ["SL + AL"], "majority is a reference"
    close = filled(fabric, *grids, means=means | {"hl": 0.748}, name="close")
    assert bold(table_of(fabric, close)) == [], "undecided against one other"
    other = filled(fabric, *grids, means=means | {"hl": 0.9}, name="other")
    assert bold(table_of(fabric, other)) == ["HL"], "not only ours"
    alone = filled(fabric, MAJORITY, OURS | SEVERAL, means=means, name="alone")
    assert bold(table_of(fabric, alone)) == [], "better than nothing"


def test_the_best_of_three_that_are_not_all_tested_is_not_bold(fabric: Fabric):
    """HL and SL are each tested against random real samples only."""
    labels = {"distill.method.labels": ["hard", "unrestricted"]} | SEVERAL
    experiment = fabric.experiment(DRAWS, labels)
    means = {"hard": 0.7, "unrestricted": 0.9}
    for cell in experiment.cells:
        mean = means.get(getattr(cell.source.method, "labels", ""), 0.55)
        fabric.answer(cell, [mean] * min(3, cell.initialisations))
    table = table_of(fabric, experiment)
    assert all(entries(table)[name].endswith("↑") for name in ("HL", "SL"))
    assert bold(table) == []
    asked = experiment.model_copy(update={"report": experiment.report.model_copy(update={"compare": (("SL", "HL"),)})})
    assert bold(table_of(fabric, asked)) == ["SL"]


def test_rows_selected_on_test_are_not_best_beside_fair_ones(fabric: Fabric):
    experiment = fabric.experiment(DRAWS, {"distill.method.validation.split": ["dev", "test"]} | SEVERAL)
    for cell in experiment.cells:
        method = cell.source.method
        mean = 0.5 if method.name == "random" else 0.95 if method.validation.split == "test" else 0.8
        fabric.answer(cell, [mean] * min(3, cell.initialisations))
    assert bold(table_of(fabric, experiment)) == ["HL"]


def test_sets_of_others_are_neither_best_nor_tested_beside_our_own(fabric: Fabric):
    (fabric.folder / "dataset_0.json").write_text("")
    method = {"name": "imported", "file": str(fabric.folder / "dataset_0.json"), "kind": "text", "shots": 1}
    theirs = {"distill.method": [method], "evaluate.protocol": [{"name": "finetune"}], "evaluate.initialisations": [3]}
    beside = fabric.experiment(DRAWS, HL | SEVERAL, theirs)
    for cell in beside.cells:
        name = cell.source.method.name
        fabric.answer(cell, [{"random": 0.5, "imported": 0.95}.get(name, 0.8)] * min(3, cell.initialisations))
    table = table_of(fabric, beside)
    assert bold(table) == ["HL, 1 step, 1 shot"]
    assert [*table.tests["first"]] == ["HL, 1 step, 1 shot"]
    alone = fabric.experiment(DRAWS, theirs, name="alone")
    assert len(table_of(fabric, alone).tests) == 1


def test_marks_say_which_way(fabric: Fabric):
    means = {"random": 0.7, "hl": 0.8, "ours": 0.6}
    found = entries(table_of(fabric, filled(fabric, DRAWS, HL | SEVERAL, OURS | SEVERAL, means=means)))
    assert [found[name].rpartition(" ")[2] for name in ("random real", "HL", "SL + AL")] == ["‡", "↑‡", "↓"]


def test_random_rows_of_other_columns_say_nothing(fabric: Fabric):
    """Each column has a row of random real samples of its own; a mark does not wait for that of the other."""
    tasks = [{"prepare.task": [fabric.task(name)]} for name in ("sst2", "qnli")]
    recipes = [{"evaluate.protocol": [{"name": "finetune", "steps": steps}]} for steps in (100, 50)]
    grids = [DRAWS | task | recipe for task, recipe in zip(tasks, recipes, strict=True)]
    grids += [OURS | SEVERAL | task for task in tasks]
    report = {"apart": ["evaluate.protocol.steps"]}
    table = table_of(fabric, filled(fabric, *grids, means={"random": 0.55, "ours": 0.75}, report=report))
    (found,) = table.frame[table.frame["method"] == "SL + AL"].to_dict("records")
    assert len(table.frame) == 3, "two rows of random real samples"
    assert sum("↑" in str(entry) for entry in found.values()) == 2


def test_sets_that_differ_leave_a_difference_undecided(fabric: Fabric):
    """The same means; the permutation test over rows rejects either way, the interval only where sets agree."""
    means = {"random": 0.6, "ours": 0.66}
    outcomes = {}
    for sets in (0.005, 0.1):
        experiment = filled(fabric, DRAWS, OURS | SEVERAL, means=means, sets=sets, name=f"sets{int(1000 * sets)}")
        (record,) = table_of(fabric, experiment).tests.to_dict("records")
        outcomes[sets] = record["holds"]
        assert record["p_permutation"] < 0.01
    assert outcomes == {0.005: True, 0.1: False}


def test_a_sentence_of_an_asked_pair(fabric: Fabric):
    experiment = filled(
        fabric, DRAWS, HL, means={"random": 0.55, "hl": 0.75}, report={"compare": [["HL", "random real"]]}
    )
    (line,) = table_of(fabric, experiment).differences
    collected = collect(experiment, fabric.store)
    first, second = (
        collected.sample(row, collected.layout.columns[0]).estimate for row in reversed(collected.layout.rows)
    )
    assert line.startswith(f"sst2: HL − random real = {100 * (first.mean - second.mean):+.1f} points, 95 % interval [")
    assert "p < 0.001 (Holm over 1 test): holds. Detectable: " in line
    assert "first step" not in line
    assert line.endswith(
        "Varied: rows; HL, 3 initialisations of 1 set, so not what another set would give; random real, "
        "5 initialisations of 5 sets."
    )


def test_an_asked_pair_is_told_of_the_columns_that_have_it(fabric: Fabric):
    """Of a column without one of its rows nothing is said, unless no column has both."""
    sst2, qnli = ({"prepare.task": [fabric.task(name)]} for name in ("sst2", "qnli"))
    means, report = {"random": 0.55, "hl": 0.75}, {"compare": [["HL", "random real"]]}
    table = table_of(fabric, filled(fabric, DRAWS | sst2, HL | sst2, HL | qnli, means=means, report=report))
    (line,) = table.differences
    assert line.startswith("sst2: HL − random real = ")
    apart = filled(fabric, DRAWS | sst2, HL | qnli, means=means, report=report, name="apart")
    lines = table_of(fabric, apart).differences
    assert [line.partition(":")[0] for line in lines] == ["sst2", "qnli"]
    assert all(line.endswith("not in the grid.") for line in lines)


def test_what_one_generator_leaves_unvaried_is_said(fabric: Fabric):
    """Three sets of one language model beside three of two."""
    source = {"model": {"name": str(fabric.model), "head": "language"}}
    lm, other = ({"method": {"name": "lm"}, "source": source, "seed": seed} for seed in (42, 43))
    written = {"distill.method": [{"name": "generated"}], "evaluate.protocol": [{"name": "finetune"}]}
    matched = {"method": {"name": "dilm"}, "parent": lm, "seed": 42}
    experiment = fabric.experiment(
        written | {"distill.seed": [0, 1, 2], "distill.parent": [lm]},
        written | {"distill.seed": [0, 1], "distill.parent": [matched, matched | {"parent": other}]},
        report={"compare": [["DiLM", "LM"]]},
    )
    for cell in experiment.cells:
        fabric.answer(cell, [0.6, 0.61, 0.62])
    (line,) = table_of(fabric, experiment).differences
    assert line.endswith(
        "Varied: rows; DiLM, 12 initialisations of 4 sets of 2 language models; LM, 9 initialisations of 3 sets of one "
        "language model, so not what making it anew would give."
    )


def test_every_test_counts_in_the_correction(fabric: Fabric):
    means = {"random": 0.6, "hl": 0.62, "ours": 0.64}
    asked = {"compare": [["random real", "majority"]]}
    experiment = filled(
        fabric, MAJORITY, DRAWS, HL | SEVERAL, OURS | SEVERAL, means=means | {"majority": 0.6}, report=asked
    )
    collected = collect(experiment, fabric.store)
    found = compare(experiment.report.compare, collected)
    assert len(found) == 4
    (line,) = Verdicts(collected, found).sentences()
    sizes = [100 * found[0].difference.detectable(alpha) for alpha in (0.05, 0.05 / 4)]
    assert f"Detectable: {sizes[0]:.1f} points ({sizes[1]:.1f} at Holm's first step). Varied" in line
    assert [each.asked for each in found] == [True, False, False, False]
    ordered = sorted(found, key=lambda each: each.p)
    highest = 0.0
    for rank, each in enumerate(ordered):
        highest = max(highest, min(1.0, (4 - rank) * each.p))
        assert each.p_holm == pytest.approx(highest)
        assert each.p == max(each.p_permutation, each.difference.p)
        assert bool(each.sign) == (each.p_holm < 0.05 and not each.difference.low <= 0 <= each.difference.high)


def test_an_asked_pair_that_is_tested_anyway_counts_once_in_its_direction(fabric: Fabric):
    experiment = filled(
        fabric, DRAWS, OURS, means={"random": 0.55, "ours": 0.75}, report={"compare": [["random real", "SL + AL"]]}
    )
    table = table_of(fabric, experiment)
    assert table.tests[["first", "second"]].to_numpy().tolist() == [["random real", "SL + AL"]]
    assert "random real − SL + AL = -" in table.differences[0]
    assert entries(table)["SL + AL"].endswith(" ↑")


def test_only_rows_of_equal_budgets_are_compared(fabric: Fabric):
    budgets = [{"shots": 1}, {"shots": 3, "batch_shots": 3}]
    experiment = filled(
        fabric, DRAWS | {"distill.method.shots": [1, 3]}, {"distill.method": budgets}, means={"random": 0.5, "hl": 0.6}
    )
    tests = table_of(fabric, experiment).tests
    assert tests[["first", "second"]].to_numpy().tolist() == [
        ["HL, 1 step, 1 shot", "random real, 1 shot"],
        ["HL, 1 step, 3 shots", "random real, 3 shots"],
    ]


def test_a_metric_of_counts_is_tested_too(fabric: Fabric):
    tasks = [fabric.task("mrpc", metric="accuracy_f1")]
    experiment = filled(fabric, DRAWS, OURS | SEVERAL, means={"random": 0.55, "ours": 0.75}, tasks=tasks)
    (record,) = table_of(fabric, experiment).tests.to_dict("records")
    collected = collect(experiment, fabric.store)
    ours, random = (
        next(collected.sample(row, collected.layout.columns[0]) for row in collected.layout.rows if row.kind == kind)
        for kind in ("ddal", "random")
    )
    assert record["metric"] == "accuracy_f1"
    assert record["difference"] == pytest.approx(ours.estimate.mean - random.estimate.mean)
    assert record["ci_low"] < record["difference"] < record["ci_high"]
    assert record["holds"]


def test_the_caption_names_method_and_detectable_difference(fabric: Fabric):
    experiment = filled(fabric, DRAWS, HL | SEVERAL, OURS | SEVERAL, means={"random": 0.55, "hl": 0.6, "ours": 0.75})
    table = table_of(fabric, experiment)
    (how,) = [sentence for sentence in table.caption if sentence.startswith("Marks")]
    assert "after Holm's correction for all 3 tests of this table" in how
    ranges = []
    for name in ("detectable", "detectable_holm"):
        ranges.append(f"{100 * table.tests[name].min():.1f} to {100 * table.tests[name].max():.1f}")
    assert (
        "Minimum detectable difference (80 % power, α .05 two-sided) by itself and at Holm's first step, α .05 / 3, "
        f"points: sst2 {ranges[0]} and {ranges[1]}."
    ) in table.caption
    for record in table.tests.to_dict("records"):
        for name, alpha in (("detectable", 0.05), ("detectable_holm", 0.05 / 3)):
            reach = t.ppf(1 - alpha / 2, record["freedom"]) + t.ppf(0.8, record["freedom"])
            assert record[name] == pytest.approx(record["error"] * reach)


def test_cells_without_predictions_are_not_tested_and_said(fabric: Fabric):
    experiment = filled(
        fabric,
        DRAWS,
        HL,
        OURS,
        means={"random": 0.55, "hl": 0.6, "ours": 0.75},
        report={"compare": [["HL", "SL + AL"]]},
    )
    old = next(cell for cell in experiment.cells if name_of(cell) == "hl")
    (fabric.store.cell(old).folder / "predictions.h5").unlink()
    table = table_of(fabric, experiment)
    words = "HL: evaluated before predictions were stored, remove the folders in evaluate/ and run stage 3 again"
    assert f"Not tested: {words}." in table.caption
    assert table.differences[0].endswith(f" points; not tested; {words}.")
    assert table.tests.set_index(["first", "second"])["holds"].map(lambda v: v is True).tolist() == [False, False, True]
    assert entries(table)["SL + AL"].endswith(" ↑"), "the others are"


def test_predictions_that_are_not_of_the_results_are_not_used(fabric: Fabric):
    experiment = filled(fabric, DRAWS, OURS, means={"random": 0.55, "ours": 0.75})
    folder = fabric.store.cell(next(c for c in experiment.cells if name_of(c) == "ours")).folder
    with h5py.File(folder / "predictions.h5", "r+") as file:  # one run loses what another wins: the mean stays
        found, labels = file["test/predicted"], file["test/labels"][:]
        right, wrong = np.flatnonzero(found[0] == labels)[0], np.flatnonzero(found[1] != labels)[0]
        found[0, right], found[1, wrong] = 1 - labels[right], labels[wrong]
    caption = table_of(fabric, experiment).caption
    assert any("SL + AL: predictions are not those of the results" in sentence for sentence in caption)


def test_other_rows_are_refused(fabric: Fabric):
    experiment = filled(fabric, DRAWS, OURS, means={"random": 0.55, "ours": 0.75})
    folder = fabric.store.cell(next(c for c in experiment.cells if name_of(c) == "ours")).folder
    with h5py.File(folder / "predictions.h5", "r+") as file:
        file["test/labels"][0] = 1 - file["test/labels"][0]
    assert any("scored on other rows" in sentence for sentence in table_of(fabric, experiment).caption)


def test_a_single_run_is_not_tested(fabric: Fabric):
    experiment = filled(
        fabric, HL, FULL, means={"hl": 0.6, "full": 0.9}, runs=1, report={"compare": [["full data", "HL"]]}
    )
    (line,) = table_of(fabric, experiment).differences
    assert line.endswith(" points; not tested; full data, HL: a single run.")


def test_the_majority_needs_no_second_run(fabric: Fabric):
    experiment = filled(
        fabric, MAJORITY, HL | SEVERAL, means={"hl": 0.6, "majority": 0.8}, report={"compare": [["HL", "majority"]]}
    )
    (line,) = table_of(fabric, experiment).differences
    assert "holds" in line
    assert line.endswith("HL, 15 initialisations of 5 sets; majority, nothing.")


def test_what_is_not_finished_is_not_computed(fabric: Fabric):
    pairs = [["HL", "full data"], ["HL", "random real"]]
    experiment = fabric.experiment(HL, FULL, RANDOM, report={"compare": pairs})
    fabric.answer(experiment.cells[0], [0.6, 0.6])
    line = "sst2: HL − full data, HL − random real: not computed; full data, random real: missing."
    assert table_of(fabric, experiment).differences == (line,)


def test_rows_selected_on_test_are_not_tested_beside_fair_ones(fabric: Fabric):
    experiment = fabric.experiment(DRAWS, {"distill.method.validation.split": ["dev", "test"]})
    for cell in experiment.cells:
        fabric.answer(cell, [0.6, 0.7])
    assert table_of(fabric, experiment).tests["first"].tolist() == ["HL"]
    leaky = fabric.experiment(DRAWS, {"distill.method.validation.split": ["test"]})
    assert len(table_of(fabric, leaky).tests) == 1


def test_an_unknown_row_is_an_error_with_the_nearest_name(fabric: Fabric):
    experiment = fabric.experiment(HL, RANDOM, report={"compare": [["HL", "random reel"]]})
    with pytest.raises(InputError, match=r"'random reel'.*did you mean 'random real'.*allowed: .*HL"):
        table_of(fabric, experiment)


def test_a_pair_without_equal_budgets_is_an_error(fabric: Fabric):
    budgets = [{"shots": 2, "batch_shots": 2}, {"shots": 3, "batch_shots": 3}]
    grids = ({"distill.method": budgets}, RANDOM | {"distill.method.shots": [1, 4]})
    experiment = fabric.experiment(*grids, report={"compare": [["HL", "random real"]]})
    with pytest.raises(InputError, match="no row of 'HL' has the budget of one of 'random real'"):
        table_of(fabric, experiment)


def test_the_same_results_give_the_same_tests(fabric: Fabric):
    experiment = filled(fabric, DRAWS, OURS, means={"random": 0.55, "ours": 0.6})
    frames = []
    for _ in range(2):
        collected = collect(experiment, fabric.store)
        frames.append(Verdicts(collected, compare((), collected)).frame())
    pd.testing.assert_frame_equal(*frames)
    assert frames[0]["n_split"].tolist() == [SIZES["test"]]
    assert json.loads(frames[0].iloc[0].to_json())["n_seed_second"] == 5
