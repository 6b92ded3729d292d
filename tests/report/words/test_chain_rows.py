"""Transfers and parents in tables: which row and column they belong to, which sets there are, what they cost."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import Experiment
from pipeline.report.alternatives import alternatives, searched
from pipeline.report.archive import Archive
from pipeline.report.collect import collect
from pipeline.report.finished import Problem, in_store
from pipeline.report.layout import layout
from pipeline.report.ledger import Ledger
from pipeline.report.statistics.comparisons import _predicted
from tests.report.report_fabric import RANDOM, Fabric

START = {"method": {"name": "ddal"}}


@pytest.fixture
def models(fabric: Fabric) -> list[str]:
    """Three encoders; the first one is the fabric's own."""
    for name in ("roberta-tiny", "xlnet-tiny"):
        (fabric.folder / name).mkdir()
        (fabric.folder / name / "config.json").write_text(f'{{"name": "{name}"}}')
    return [str(fabric.model), *(str(fabric.folder / name) for name in ("roberta-tiny", "xlnet-tiny"))]


@pytest.fixture
def matrix(fabric: Fabric, models: list[str]) -> Experiment:
    """Sets made with two of the encoders, each learned from by all three."""
    return fabric.experiment(RANDOM | {"prepare.model": models[:2], "evaluate.data.model": models})


def chained(fabric: Fabric, **distill: list[Any]) -> Experiment:
    """HL that starts from HL, with more keys of ``distill``; two underscores are a dot."""
    more = {f"distill.{key.replace('__', '.')}": values for key, values in distill.items()}
    return fabric.experiment({"distill.parent": [START]} | more)


def test_a_transferred_set_has_a_row_of_its_own_in_the_students_column(matrix: Experiment) -> None:
    plan = layout(matrix.cells, "table2")
    assert [column.title for column in plan.columns] == ["sst2, bert-tiny", "sst2, roberta-tiny", "sst2, xlnet-tiny"]
    assert list(plan.labels.values()) == [
        "random real", "random real, made with bert-tiny", "random real, made with roberta-tiny"
    ]  # fmt: skip
    found = {
        (plan.labels[row], column.model): len(cells) for (row, column), cells in plan.members(matrix.cells).items()
    }
    assert found == {
        ("random real", "bert-tiny"): 1,
        ("random real, made with bert-tiny", "roberta-tiny"): 1,
        ("random real, made with bert-tiny", "xlnet-tiny"): 1,
        ("random real", "roberta-tiny"): 1,
        ("random real, made with roberta-tiny", "bert-tiny"): 1,
        ("random real, made with roberta-tiny", "xlnet-tiny"): 1,
    }


def test_a_transferred_row_is_read_where_its_students_are(fabric: Fabric, matrix: Experiment) -> None:
    fabric.fill(matrix, lambda cell: dict.fromkeys(cell.splits, [0.5 + 0.1 * (cell.data is None)] * 3))
    found = collect(matrix, fabric.store)
    means = {
        (found.layout.labels[row], column.model): entry.headline.estimate.mean
        for (row, column), entry in found.entries.items()
        if entry.headline is not None
    }
    assert len(means) == 6
    assert {name: round(mean, 3) for (name, _), mean in means.items()} == {
        "random real": 0.6,
        "random real, made with bert-tiny": 0.5,
        "random real, made with roberta-tiny": 0.5,
    }
    assert all(found.size(column, "test") == 1234 for column in found.layout.columns)


def test_a_parent_is_a_hyper_parameter_and_its_seed_is_none(fabric: Fabric) -> None:
    seeds = chained(fabric, seed=[1, 2], parent__seed=[7, 8])
    assert len(alternatives(seeds.cells)) == 1
    rates = chained(fabric, parent__method__learning_rate=[0.1, 0.2])
    assert searched([cells[0] for cells in alternatives(rates.cells)]) == ("distill.parent.method.learning_rate",)
    mixed = fabric.experiment({"distill.parent": [None, START]})
    assert len(alternatives(mixed.cells)) == 2
    assert len(layout(mixed.cells, "table2").rows) == 1


def test_sets_of_one_seed_and_other_parents_are_several(fabric: Fabric) -> None:
    """Two parents, two sets from each; every set took 12 s, every parent too."""
    made = chained(fabric, seed=[1, 2], parent__seed=[7, 8])
    fabric.fill(made, lambda cell: dict.fromkeys(cell.splits, [0.05 * sum(cell.source.seeds)] * 3))
    ((_, entry),) = collect(made, fabric.store).entries.items()
    assert entry.chosen is not None
    assert entry.headline is not None
    assert (entry.headline.estimate.n_seed, entry.headline.estimate.n) == (4, 12)
    assert [round(values[0], 3) for values in entry.headline.by_set] == [0.4, 0.45, 0.45, 0.5]
    assert entry.chosen.distill_seconds == (4 * 12 + 2 * 12) / 4, "each parent is shared by two sets"
    assert entry.chosen.seconds == 6 * 12 + 4 * (1 + 2 + 3)


def test_the_archive_keeps_what_parents_took(fabric: Fabric) -> None:
    made = chained(fabric)
    fabric.fill(made, lambda cell: dict.fromkeys(cell.splits, [0.5] * 3))
    found = in_store(made.cells[0], fabric.store)
    assert not isinstance(found, Problem)
    archive = Archive(fabric.folder / "demo", fabric.store)
    archive.write([(found, "test")], [])
    again = Archive(fabric.folder / "demo", fabric.store).find(made.cells[0])
    assert again is not None
    parent = fabric.store.cell(made.cells[0].source.chain[1])
    assert again.parent_seconds == found.parent_seconds == {parent.folder.name: 12.0}


def test_an_artifact_of_a_chain_has_one_line_of_the_ledger(fabric: Fabric) -> None:
    made = chained(fabric, seed=[1, 2], parent__seed=[7])
    fabric.fill(made, lambda cell: dict.fromkeys(cell.splits, [0.5] * 3))
    found = collect(made, fabric.store)
    ledger = Ledger(fabric.folder / "demo.ledger.csv", fabric.store)
    ledger.add(finished for finished, _ in found.cells)
    assert [line["stage"] for line in ledger.lines.values()].count("distill") == 3
    for number, line in enumerate(ledger.lines.values()):
        line["cpu_seconds"] = str(10**number) if line["stage"] == "distill" else ""
    distill = [float(line["cpu_seconds"]) for line in ledger.lines.values() if line["stage"] == "distill"]
    (entry,) = found.entries.values()
    assert entry.chosen is not None
    assert ledger.totals(entry.chosen.cells).distill["cpu_seconds"] == sum(distill) / 2


def test_what_stopped_a_cell_may_be_a_parent(fabric: Fabric) -> None:
    made = chained(fabric)
    cell = made.cells[0]
    fabric.finish(cell, dict.fromkeys(cell.splits, [0.5] * 3))
    for one in (cell, cell.source, cell.source.chain[1]):
        (fabric.store.cell(one).folder / "done.json").unlink()
    fabric.fail(cell.source.chain[1], "ValueError: no")
    problem = in_store(cell, fabric.store)
    assert isinstance(problem, Problem)
    assert (problem.stage, problem.state) == ("distill", "failed")
    assert "ValueError: no" in (problem.reason or "")


def test_comparisons_tell_sets_by_their_chains(fabric: Fabric) -> None:
    made = chained(fabric, seed=[1, 2], parent__seed=[7, 8])
    for cell in made.cells:
        fabric.answer(cell, [0.6, 0.7, 0.8])
    (entry,) = collect(made, fabric.store).entries.values()
    assert entry.chosen is not None
    found = _predicted(entry.chosen, "test")
    assert found is not None
    assert [answers.shape for answers in found[2]] == [(3, 1234)] * 4
