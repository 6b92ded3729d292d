"""A set that won the search of its settings is named as such, and the others' mean stands beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import Experiment
from pipeline.report.collect import Collected, collect
from pipeline.report.ledger import Ledger
from pipeline.report.settled import sentences
from tests.report.report_fabric import MAJORITY, Fabric, counts

VALUES = {0: 0.9, 1: 0.6, 2: 0.7}


@pytest.fixture(autouse=True)
def nothing_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counts(monkeypatch)


def filled(fabric: Fabric, experiment: Experiment) -> Collected:
    values = VALUES | {42: 0.5}
    fabric.fill(experiment, lambda cell: dict.fromkeys(cell.splits, [values[cell.source.seed]] * 3))
    return collect(experiment, fabric.store)


def table(fabric: Fabric, *seeds: int) -> Collected:
    """Sets of HL by these seeds, whose settings the experiment ``hunt`` settled, and the majority."""
    return filled(fabric, fabric.experiment(MAJORITY, {"distill.seed": list(seeds)}, report={"search": "hunt"}))


def hunt(fabric: Fabric, rate: float) -> None:
    """A search that scored the set of seed 0 on dev, with this step size of the inner loop."""
    grid = {"distill.seed": [0], "distill.method.learning_rate": [rate]}
    collected = filled(fabric, fabric.experiment(grid, name="hunt", splits=["dev"]))
    ledger = Ledger(fabric.folder / "hunt.ledger.csv", fabric.store)
    ledger.add(finished for finished, _ in collected.cells)
    ledger.write()


def rate_of(fabric: Fabric) -> float:
    method = fabric.experiment().cells[0].source.method
    assert method.name == "ddal"
    return method.learning_rate


def test_the_mean_without_the_winner(fabric: Fabric) -> None:
    collected = table(fabric, 0, 1, 2)
    hunt(fabric, rate_of(fabric))
    (sentence,) = sentences(collected, fabric.folder)
    assert "by whose dev scores hunt chose its settings" in sentence
    assert sentence.endswith("mean of the other sets alone (how many): HL: sst2 65.0 (2).")


def test_a_row_of_the_winner_alone(fabric: Fabric) -> None:
    collected = table(fabric, 0)
    hunt(fabric, rate_of(fabric))
    (sentence,) = sentences(collected, fabric.folder)
    assert sentence.endswith("HL: sst2 there is no other.")


def test_sets_that_no_search_has_seen_need_no_remark(fabric: Fabric) -> None:
    collected = table(fabric, 1, 2)
    hunt(fabric, rate_of(fabric))
    assert sentences(collected, fabric.folder) == ()


def test_the_same_seed_with_other_settings_is_another_set(fabric: Fabric) -> None:
    collected = table(fabric, 0, 1)
    hunt(fabric, rate_of(fabric) / 2)
    assert sentences(collected, fabric.folder) == ()


def test_without_the_searchs_ledger_it_is_said_that_nothing_is_known(fabric: Fabric, tmp_path: Path) -> None:
    (sentence,) = sentences(table(fabric, 0, 1), tmp_path / "elsewhere")
    assert sentence.endswith("is not known: hunt.ledger.csv is not there.")


def test_a_run_that_two_cells_share_counts_once(fabric: Fabric) -> None:
    """The fresh set's first two students were scored by both of its cells, the third one by one."""
    grids = {"distill.seed": [0, 1], "evaluate.initialisations": [2, 3]}
    experiment = fabric.experiment(grids, report={"search": "hunt"})
    fabric.fill(experiment, lambda cell: dict.fromkeys(cell.splits, [0.5, 0.6, 0.9][: cell.initialisations]))
    hunt(fabric, rate_of(fabric))
    (sentence,) = sentences(collect(experiment, fabric.store), fabric.folder)
    assert sentence.endswith("HL: sst2 66.7 (1).")
