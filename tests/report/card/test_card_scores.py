"""What the store and a committed archive say of one set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import Experiment
from pipeline.errors import InputError
from pipeline.report.archive import Archive
from pipeline.report.card.facts import Reads
from pipeline.report.card.history import history
from pipeline.report.card.scores import (
    Scored,
    beside,
    distinct,
    evaluations_of,
    from_archive,
    in_store,
    reads_of_test,
    transfers,
)
from pipeline.report.collect import collect
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric


def known(fabric: Fabric, experiment: Experiment, *values: float) -> list[Scored]:
    """Every cell finished: the k-th with these values moved by k hundredths, the same on dev."""
    for at, cell in enumerate(experiment.cells):
        scores = {split: [value + at / 100 for value in values] for split in cell.splits}
        fabric.finish(cell, scores)
    return in_store(fabric.store)


def test_the_scores_of_one_set(fabric: Fabric) -> None:
    experiment = fabric.experiment({"distill.seed": [1, 2]}, RANDOM)
    found = known(fabric, experiment, 0.6, 0.7, 0.8)
    (mine,) = evaluations_of(experiment.cells[1].source, found)
    assert mine.how == "ddal (revision 2: 1 gradient step with learned step sizes)"
    assert mine.seeds == (0,)
    assert [(s.split, s.metric, s.n) for s in mine.scores] == [("dev", "accuracy", 3), ("test", "accuracy", 3)]
    assert mine.scores[1].mean == pytest.approx(0.71)
    assert mine.scores[1].std == pytest.approx(0.1)  # of the sample: (0.01 + 0 + 0.01) / 2


def test_draws_are_pooled_and_protocols_are_not(fabric: Fabric) -> None:
    experiment = fabric.experiment(
        {"evaluate.seed": [0, 5]}, {"evaluate.protocol": [{"name": "finetune", "steps": 3}]}, splits=["test"]
    )
    found = evaluations_of(experiment.cells[0].source, known(fabric, experiment, 0.5))
    assert sorted((each.protocol.name, each.seeds, each.scores[0].n) for each in found) == [
        ("ddal", (0, 5), 2),
        ("finetune", (0,), 1),
    ]
    single = next(each.scores[0] for each in found if each.protocol.name == "finetune")
    assert single.std is None


def test_the_same_initialisation_counts_once(fabric: Fabric) -> None:
    """Two evaluations that differ in how many they ask for share the first ones."""
    experiment = fabric.experiment({"evaluate.initialisations": [2, 3]}, splits=["test"])
    fabric.finish(experiment.cells[0], {"test": [0.5, 0.6]})
    fabric.finish(experiment.cells[1], {"test": [0.5, 0.6, 0.7]})
    (found,) = evaluations_of(experiment.cells[0].source, in_store(fabric.store))
    assert found.scores[0].n == 3


def test_a_run_that_two_cells_scored_counts_once_wherever_it_is_told(fabric: Fabric) -> None:
    """Two initialisations, then four of which two are the same; on test alone, then on dev too."""
    (fabric.folder / "roberta-tiny").mkdir()
    (fabric.folder / "roberta-tiny" / "config.json").write_text("{}")
    for number, (count, splits) in enumerate(((2, ["test"]), (4, ["dev", "test"]))):
        asking = {"evaluate.initialisations": [count], "evaluate.splits": [splits]}
        text = RANDOM | asking | {"distill.seed": [1, 2]}
        other = {"evaluate.data.model": [str(fabric.folder / "roberta-tiny")]}
        plan = fabric.experiment(asking | {"distill.seed": [1, 2]}, text, text | other, name=f"asking{number}")
        for cell in plan.cells:
            values = [0.5 + 0.1 * run + 0.02 * (cell.source.seed == 2) for run in range(count)]
            fabric.finish(cell, dict.fromkeys(cell.splits, values))
    found = in_store(fabric.store)
    assert len(found) == 12
    made = next(each.config.source for each in found if each.config.source.method.name == "ddal")
    real = next(each.config.source for each in found if each.config.data is not None)
    (score,) = [one for one in evaluations_of(made, found)[0].scores if one.split == "test"]
    assert (score.n, score.mean) == (4, pytest.approx(0.65 + 0.02 * (made.seed == 2)))
    (told,) = beside(made, found)
    assert told.endswith("66.0 ± 12.0 (n 8, of 2 sets)")
    (moved,) = transfers(real, found)
    assert moved.endswith("± 12.9 (n 4)")
    (seeds,) = [sentence for sentence in history(made, {}, found) if sentence.startswith("Seeds")]
    assert "have a mean test accuracy of 66.0 ± 1.4" in seeds


def test_unfinished_and_foreign_cells_are_passed_by(fabric: Fabric) -> None:
    experiment = fabric.experiment({"distill.seed": [1, 2, 3]})
    known(fabric, experiment, 0.5)
    first, second, _ = (fabric.store.cell(cell).folder for cell in experiment.cells)
    (first / "done.json").unlink()
    stored = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(stored | {"of_a_later_version": 1}))
    assert [each.config for each in in_store(fabric.store)] == [experiment.cells[2]]


def test_every_read_of_the_test_split_counts(fabric: Fabric) -> None:
    """Of whatever set, but neither of dev nor of another task."""
    experiment = fabric.experiment({"distill.seed": [1, 2]}, RANDOM, MAJORITY)
    other = fabric.experiment(tasks=[fabric.task("mrpc")], name="other")
    on_dev = fabric.experiment({"distill.seed": [9]}, splits=["dev"], name="dev")
    for each in (experiment, other, on_dev):
        known(fabric, each, 0.5, 0.6)
    found = in_store(fabric.store)
    assert len(found) == 6
    assert reads_of_test(experiment.cells[0].source.source, found) == Reads(evaluations=4, students=8)


def test_what_stands_beside_it(fabric: Fabric) -> None:
    experiment = fabric.experiment(
        {},
        RANDOM | {"distill.seed": [1, 2], "evaluate.initialisations": [1]},
        MAJORITY,
        FULL | {"evaluate.initialisations": [1]},
        splits=["test"],
    )
    found = known(fabric, experiment, 0.5)
    told = beside(experiment.cells[0].source, found)
    assert sorted(sentence.split(",")[0] for sentence in told) == ["full data", "majority", "random real"]
    assert next(each for each in told if each.startswith("random")).endswith(": 51.5 ± 0.7 (n 2, of 2 sets)")
    assert next(each for each in told if each.startswith("majority")).endswith(": 53.0 (n 1, of 1 set)")


def test_a_committed_archive_says_the_same_as_the_store(fabric: Fabric, tmp_path: Path) -> None:
    experiment = fabric.experiment({"distill.seed": [1, 2]}, MAJORITY, splits=["dev", "test"])
    found = known(fabric, experiment, 0.61, 0.7000000001)
    collected = collect(experiment, fabric.store)
    Archive(tmp_path / "out" / "demo", fabric.store).write(collected.cells, collected.prepared)
    again = from_archive(Archive(tmp_path / "out" / "demo", fabric.store))
    assert len(distinct([*found, *again])) == len(found)
    with pytest.raises(InputError, match=r"none\.runs\.csv: no such results"):
        from_archive(Archive(tmp_path / "none", fabric.store))
    for cell in experiment.cells:
        assert evaluations_of(cell.source, again) == evaluations_of(cell.source, found) != ()
