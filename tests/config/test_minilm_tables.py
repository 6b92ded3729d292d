"""Tables 2 and 3 with MiniLM take the α and η that the search chose on dev, for every task that it has been through."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config import DDAL, Experiment, load

ROOT = Path(__file__).parents[2]
MODES = {
    ("hard", "none"): "HL",
    ("unrestricted", "none"): "SL",
    ("hard", "cls"): "HL + AL",
    ("unrestricted", "cls"): "SL + AL",
}


def chosen() -> dict[tuple[str, str], tuple[float, float]]:
    """(task, row) -> (α, η), from the committed results of the search; rows of unfinished tasks have no choice."""
    searched = Counter(
        (cell.source.source.task.name, MODES[cell.source.method.labels, cell.source.method.attention_labels])
        for cell in load(str(ROOT / "configs/search_minilm.yaml")).cells
        if isinstance(cell.source.method, DDAL)
    )
    with open(ROOT / "analysis/results/search_minilm.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["alternatives"] == str(searched[row["task"], row["row"]])]
    pattern = re.compile(r"distill\.method\.learning_rate=([\d.e-]+), distill\.method\.outer\.lr=([\d.e-]+)")
    found = {}
    for row in rows:
        match = pattern.fullmatch(row["chosen"])
        assert match is not None, row["chosen"]
        found[row["task"], row["row"]] = float(match[2]), float(match[1])
    return found


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    monkeypatch.chdir(ROOT)
    return [load("configs/table2_minilm.yaml"), load("configs/table3_minilm.yaml")]


def test_the_tables_take_what_was_chosen_on_dev(tables: list[Experiment]) -> None:
    choices = chosen()
    assert choices
    for experiment in tables:
        cells = [(cell.source.source.task.name, cell.source.method) for cell in experiment.cells]
        used = {
            (task, MODES[method.labels, method.attention_labels]): (method.outer.lr, method.learning_rate)
            for task, method in cells
            if isinstance(method, DDAL)
        }
        compared = used.keys() & choices.keys()
        assert compared
        assert {key: used[key] for key in compared} == {key: choices[key] for key in compared}


def test_the_search_reads_no_test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert {cell.splits for cell in load("configs/search_minilm.yaml").cells} == {("dev",)}
