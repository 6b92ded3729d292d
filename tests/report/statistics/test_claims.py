"""What the runs say of the paper's claims, on students whose answers are drawn with known accuracy."""

import numpy as np
import pytest

from pipeline.report.collect import collect
from pipeline.report.layout import layout
from pipeline.report.statistics import claims
from pipeline.report.statistics.differences import holm
from tests.report.report_fabric import Fabric

pytestmark = pytest.mark.usefixtures("fewer_draws")
MODES = {
    "distill.method": [{"labels": a, "attention_labels": b} for a in ("hard", "unrestricted") for b in ("none", "cls")]
}
AL = {"labels": "unrestricted", "attention_labels": "cls"}
STEPS = {
    "distill.method": [
        AL | {"steps": t, "shots": s, "batch_shots": b}
        for t, s, b in [(1, 1, 1), (1, 3, 3), (1, 5, 5), (3, 1, 1), (5, 1, 1), (3, 3, 1), (5, 5, 1)]
    ]
}
SEEDS = {"distill.seed": [0, 1, 2, 3]}


def answered(fabric: Fabric, grid, accuracy, **more):
    """Four runs of every set; sets and initialisations differ by about a point."""
    experiment = fabric.experiment(grid, **more)
    random = np.random.default_rng(1)
    for cell in experiment.cells:
        of_set = accuracy(cell) + [-0.01, 0.01, 0.004, -0.004][cell.source.seed % 4]
        fabric.answer(cell, of_set + random.normal(0, 0.01, 4))
    return experiment, collect(experiment, fabric.store)


def attended(cell) -> bool:
    return cell.source.method.attention_labels == "cls"


def test_holds_undecided_and_contradicted(fabric: Fabric):
    """Attention labels add 15 points on one task and take 15 on the other; soft labels do nothing."""
    tasks = [fabric.task("sst2"), fabric.task("mrpc")]

    def accuracy(cell):
        return 0.6 + 0.15 * attended(cell) * (1 if cell.source.source.task.name == "sst2" else -1)

    experiment, found = answered(fabric, MODES | SEEDS, accuracy, tasks=tasks)
    frame = claims.claims(found)
    help_, soft = (frame[frame["claim"] == claim.text] for claim in claims.CLAIMS[:2])
    assert list(help_["first"]) == ["HL + AL", "SL + AL"] * 2
    assert list(help_["second"]) == ["HL", "SL"] * 2
    assert list(help_["verdict"]) == ["holds"] * 2 + ["contradicted"] * 2
    assert list(zip(soft["first"], soft["second"], strict=True)) == [("SL", "HL"), ("SL + AL", "HL + AL")] * 2
    assert list(soft["verdict"]) == ["undecided"] * 4
    assert len(frame) == 8, "the grid has no steps"
    means = {row.method: 100 * found.sample(row, found.layout.columns[0]).estimate.mean for row in found.layout.rows}
    assert help_["difference"].iloc[0] == pytest.approx(means["HL + AL"] - means["HL"])
    assert (help_["ci_low"] < help_["difference"]).all()
    assert (help_["ci_high"] > help_["difference"]).all()
    said = claims.summary(frame)
    assert said[0] == (
        "“attention labels help on every task”: CONTRADICTED as a whole (holds in 2, contradicted in 2; of 4 "
        "comparisons)."
    )
    assert "UNDECIDED as a whole (undecided in 4; of 4" in said[1]
    assert said[2].endswith("no pair of rows in this experiment speaks of it.")
    shown = claims.table(experiment, found)
    assert shown.frame["compared (n = sets × initialisations)"][0] == "HL + AL (4 × 4) − HL (4 × 4)"


def test_all_lines_are_corrected_together(fabric: Fabric):
    _, found = answered(fabric, MODES | SEEDS, lambda cell: 0.6 + 0.05 * attended(cell))
    frame = claims.claims(found)
    rows = [row for row in found.layout.rows if row.kind == "ddal"]
    pairs = [pair for claim in claims.CLAIMS for pair in claim.pairs(rows)]
    raw = [each.p for each in claims.compare_pairs(pairs, found)]
    assert list(frame["p_holm"]) == pytest.approx(holm(raw))
    assert len(raw) == 4


def test_one_set_decides_nothing_about_a_method(fabric: Fabric):
    _, found = answered(fabric, MODES, lambda cell: 0.6 + 0.2 * attended(cell))
    frame = claims.claims(found).iloc[:2]
    assert list(frame["for_these_sets"]) == ["holds", "holds"]
    assert list(frame["verdict"]) == ["undecided", "undecided"]
    assert set(frame["why"]) == {"one set on a side"}


def test_pairs_of_steps(fabric: Fabric):
    plan = layout(fabric.experiment(STEPS, report={"table": "table3"}).cells, "table3")
    found = {c.text: [(plan.labels[a], plan.labels[b]) for a, b in c.pairs(plan.rows)] for c in claims.CLAIMS}
    assert found == {
        "attention labels help on every task": [],
        "soft labels help": [],
        "the same data over several steps hurts": [
            ("3 steps, 1 shot, same", "1 step, 1 shot"),
            ("5 steps, 1 shot, same", "1 step, 1 shot"),
        ],
        "different data per step helps, against the same data": [
            ("3 steps, 3 shots, different", "3 steps, 1 shot, same"),
            ("5 steps, 5 shots, different", "5 steps, 1 shot, same"),
        ],
    }


def test_what_the_paper_says_hurts_is_contradicted_where_it_helps(fabric: Fabric):
    def accuracy(cell):
        method = cell.source.method
        return {(1, 1): 0.6, (3, 1): 0.75, (5, 1): 0.45}.get((method.steps, method.shots), 0.75)

    _, found = answered(fabric, STEPS | SEEDS, accuracy, report={"table": "table3"})
    frame = claims.claims(found)
    assert list(frame["verdict"]) == ["contradicted", "holds", "undecided", "holds"]


def test_what_is_missing_is_said(fabric: Fabric):
    experiment = fabric.experiment(MODES)
    for cell in experiment.cells[:3]:
        fabric.answer(cell, [0.6, 0.7, 0.65])
    frame = claims.claims(collect(experiment, fabric.store))
    unfinished = frame[(frame["first"] == "SL + AL")]
    assert set(unfinished["verdict"]) == {"not tested"}
    assert set(unfinished["why"]) == {"SL + AL: missing"}
    assert "not tested in 1" in claims.summary(frame)[0]


def test_without_any_pair_there_is_a_table_of_nothing(fabric: Fabric):
    experiment = fabric.experiment({})
    shown = claims.table(experiment, collect(experiment, fabric.store))
    assert shown.frame.empty
    assert len(shown.caption) == 4
