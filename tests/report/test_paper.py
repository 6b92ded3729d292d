import pandas as pd
import pytest

from pipeline.errors import InputError
from pipeline.report import paper
from pipeline.report.layout import layout
from tests.report.report_fabric import FULL, Fabric


def place(fabric, task, method, **more):
    experiment = fabric.experiment({"distill.method": [method]}, tasks=[fabric.task(task, **more)])
    return layout(experiment.cells, "table2").places[0]


def test_the_file_holds_both_tables_in_full():
    frame = pd.read_csv(paper.FILE)
    assert list(frame.columns) == ["table", "row", "task", "steps", "shots", "data", "mean", "std", "source"]
    assert frame.groupby("table").size().to_dict() == {"table2": 24, "table3": 28}
    assert not frame.duplicated(["table", "row", "task", "steps", "shots", "data"]).any()
    one = frame[(frame["row"] == "SL + AL") & (frame["steps"] == 1) & (frame["shots"] == 1)]
    assert (one.groupby("task")["mean"].nunique() == 1).all()  # the cell that both tables print


@pytest.mark.parametrize(
    ("table", "task", "method", "shown"),
    [
        ("table2", "sst2", {"labels": "hard"}, "81.6 ± 2.4"),
        ("table2", "qnli", {"labels": "unrestricted", "attention_labels": "cls"}, "86.4 ± 0.1"),
        ("table2", "sst2", {"labels": "soft"}, ""),
        ("table2", "sst2", {"labels": "hard", "steps": 2}, ""),
        ("table2", "sst2", {"labels": "hard", "attention_labels": "all"}, ""),
        ("table3", "ag_news", {"labels": "unrestricted", "attention_labels": "cls", "steps": 5}, "92.1"),
        ("table3", "ag_news", {"labels": "unrestricted", "attention_labels": "cls", "steps": 5, "shots": 5}, "93.1"),
        ("table3", "sst2", {"labels": "unrestricted", "attention_labels": "cls", "shots": 3, "batch_shots": 3}, "90.3"),
        ("table2", "imdb", {"labels": "hard"}, ""),
    ],
)
def test_entry(fabric: Fabric, table, task, method, shown):
    assert paper.read(table).entry(*place(fabric, task, method)) == shown


def test_full_data_and_another_metric(fabric: Fabric):
    row, column = layout(
        fabric.experiment(FULL, tasks=[fabric.task("mrpc", metric="accuracy_f1")]).cells, "table2"
    ).places[0]
    assert paper.read("table2").entry(row, column) == "88.6"
    row, column = place(fabric, "mrpc", {"labels": "hard"}, metric="f1")
    assert paper.read("table2").entry(row, column) == ""


def test_without_the_file_says_what_to_type(tmp_path):
    with pytest.raises(InputError, match=r"paper: false"):
        paper.read("table2", tmp_path / "paper.csv")
