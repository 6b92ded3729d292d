import pytest

from pipeline.report import beside
from pipeline.report.collect import collect
from tests.report.report_fabric import FULL, MAJORITY, Fabric

HL = {"distill.method.labels": ["hard"]}
BERT = {"prepare.model": ["google-bert/bert-base-uncased"]}
VALUES = {"majority": [0.5], "ddal": [0.60, 0.80], "full": [0.875]}


def filled(fabric: Fabric, *grids, **more):
    experiment = fabric.experiment(*grids, **more)
    fabric.fill(experiment, lambda cell: {"test": VALUES[cell.source.method.name]})
    return experiment, collect(experiment, fabric.store)


def line(frame, method):
    (found,) = [line for _, line in frame.iterrows() if line["row"].method == method]
    return found


def test_another_encoder_is_compared_by_its_own_full_data(fabric: Fabric):
    _, found = filled(fabric, MAJORITY, HL, FULL)
    of_hl = line(beside.shares(found), "HL")
    assert of_hl["mean"] == pytest.approx(70)
    assert of_hl["share"] == pytest.approx(80), "70.0 of 87.5"
    assert of_hl["paper_share"] == pytest.approx(100 * 81.6 / 92.7)
    assert of_hl["difference"] is None, "the encoder is another one"


def test_the_papers_encoder_is_compared_by_difference(fabric: Fabric):
    experiment, found = filled(fabric, MAJORITY | BERT, HL | BERT, FULL | BERT)
    assert line(beside.shares(found), "HL")["difference"] == pytest.approx(70 - 81.6)
    assert line(beside.shares(found), "full data")["difference"] == pytest.approx(87.5 - 92.7)
    shown = beside.table(experiment, found)
    assert list(shown.frame.columns) == [
        *("", "sst2: accuracy %", "sst2: paper (BERT-base)", "sst2: difference, points")
    ]
    assert shown.frame.iloc[1].tolist() == ["HL", "70.0 ± 14.1 (n = 1 × 2)", "81.6 ± 2.4", "-11.6"]
    assert not any("% of full:" in sentence for sentence in shown.caption)


def test_a_fresh_bert_is_not_the_papers(fabric: Fabric):
    model = {"name": "google-bert/bert-base-uncased", "pretrained": False}
    _, found = filled(fabric, HL | {"prepare.model": [model]})
    assert line(beside.shares(found), "HL")["difference"] is None


@pytest.mark.parametrize(("task", "share"), [("ag_news", 98.5), ("sst2", 97.2), ("qnli", 94.1), ("mrpc", 88.9)])
def test_the_papers_best_shares(fabric: Fabric, task: str, share: float):
    """As the specification gives them."""
    metric = {"metric": "accuracy_f1"} if task == "mrpc" else {}
    grid = {"distill.method": [{"labels": a, "attention_labels": "cls"} for a in ("hard", "unrestricted")]}
    experiment, found = filled(fabric, grid, FULL, tasks=[fabric.task(task, **metric)])
    shares = beside.shares(found)
    distilled = shares[[row.kind == "ddal" for row in shares["row"]]]
    assert max(distilled["paper_share"]) == pytest.approx(share, abs=0.05)
    assert f"{task} 80.0 / {share}" in " ".join(beside.table(experiment, found).caption)


def test_full_data_of_another_experiment_stands_in(fabric: Fabric):
    _, found = filled(fabric, HL)
    assert line(beside.shares(found), "HL")["share"] is None
    _, other = filled(fabric, FULL, name="other")
    assert line(beside.shares(found, other), "HL")["share"] == pytest.approx(80)
    _, elsewhere = filled(fabric, FULL, name="elsewhere", tasks=[fabric.task("qnli")])
    assert line(beside.shares(found, elsewhere), "HL")["share"] is None, "another task"


def test_a_task_that_the_paper_does_not_have(fabric: Fabric):
    experiment, found = filled(fabric, HL, FULL, tasks=[fabric.task("imdb")])
    shown = beside.table(experiment, found)
    assert list(shown.frame.columns) == ["", "imdb: accuracy %", "imdb: % of full"]
    assert "The paper has no numbers for imdb (task and metric)." in shown.caption


def test_a_sample_of_train_is_called_so(fabric: Fabric):
    """90 training rows, 10 of dev and 1,234 of test, all from one file."""
    _, found = filled(fabric, HL, tasks=[fabric.task("qnli"), fabric.task("imdb")])
    assert beside.sizes(found) == (
        "qnli: n = 1,234 test rows; a SAMPLE of train: 1,334 of 104,743 rows (1.3 %).",
        "imdb: n = 1,234 test rows.",
    )
