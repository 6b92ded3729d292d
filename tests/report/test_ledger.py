"""What stands in the ledger, against records written by hand; and n* against its formula worked out on paper."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config import Stage
from pipeline.errors import InputError
from pipeline.report.collect import Collected, collect
from pipeline.report.figures.pareto import Point, front, points
from pipeline.report.ledger import Ledger, cost_of, payoff, sentences, with_costs
from pipeline.report.tables import long_form
from pipeline.work import Work
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric, counts

BEGAN = "2026-01-01T00:00:00.000+00:00"
SETS = {"distill.seed": [0, 1]}
VALUES = {"majority": [0.5], "random": [0.52, 0.56, 0.6], "ddal": [0.6, 0.7, 0.8], "full": [0.9, 0.9, 0.9]}
TRAINING = {"majority": 0.0, "random": 5.0, "ddal": 10.0, "full": 1000.0}


def record(fabric: Fabric, config: Stage, number: int = 1, **facts: object) -> None:
    folder = fabric.store.cell(config).folder / "attempts"
    folder.mkdir(exist_ok=True)
    whole = {"number": number, "host": "n1", "pid": 1, "began": BEGAN, "outcome": "done", "cpu": "EPYC", "threads": 2}
    (folder / f"{number:03}.json").write_text(json.dumps(whole | facts))


@pytest.fixture
def collected(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> Collected:
    """Two sets of HL; the second one's first attempt was killed."""
    experiment = fabric.experiment(MAJORITY, RANDOM, SETS, FULL)
    fabric.fill(experiment, lambda c: dict.fromkeys(c.splits, VALUES[c.source.method.name]))
    for cell in experiment.cells:
        name = cell.source.method.name
        record(fabric, cell, seconds=30.0, cpu_seconds=60.0, gpu_seconds=0.0, peak_mb=700.0)
        record(fabric, cell.source, seconds=3.0, cpu_seconds=4.0, gpu_seconds=0.0, peak_mb=500.0)
        if name == "ddal" and cell.source.seed == 1:
            used = {"seconds": 7.0, "cpu_seconds": 6.0, "gpu_seconds": 7.0, "peak_mb": 900.0, "gpu": "NVIDIA H200"}
            record(fabric, cell.source, 1, **used | {"outcome": "killed"})
            record(fabric, cell.source, 2, seconds=1.0, cpu_seconds=2.0, gpu_seconds=1.0, peak_mb=100.0)
        (fabric.store.cell(cell.source.source).folder / "train").mkdir(exist_ok=True)
    ddal = Work(outer=4000.0)
    counts(monkeypatch, of_distill=lambda config, folder: ddal if config.method.name == "ddal" else Work())
    counts(monkeypatch, of_training=lambda config, folder: Work(training=TRAINING[config.source.method.name]))
    counts(monkeypatch, of_scoring=lambda config, folder: Work(scoring=1.0))
    return collect(experiment, fabric.store)


def ledger(fabric: Fabric, collected: Collected) -> Ledger:
    made = Ledger(fabric.folder / "demo.ledger.csv", fabric.store)
    made.add(finished for finished, _ in collected.cells)
    return made


def test_every_artifact_once_with_all_its_attempts(fabric: Fabric, collected: Collected) -> None:
    made = ledger(fabric, collected)
    made.write()
    frame = pd.read_csv(made.path)
    assert list(frame["stage"]) == ["prepare"] + ["distill"] * 5 + ["evaluate"] * 5
    assert frame["cell"].is_unique
    (twice,) = frame[frame["attempts"] == 2].to_dict("records")
    shown = {name: twice[name] for name in ("stage", "seconds", "cpu_seconds", "gpu_seconds", "peak_mb", "gpu", "cpu")}
    assert shown == {
        **{"stage": "distill", "seconds": 8.0, "cpu_seconds": 8.0, "gpu_seconds": 8.0, "peak_mb": 900.0},
        **{"gpu": "NVIDIA H200", "cpu": "EPYC"},
    }
    evaluated = frame[frame["stage"] == "evaluate"].set_index("cell")
    assert sorted(evaluated["flops"]) == [1.0, 18.0, 33.0, 33.0, 3003.0], "initialisations × (training + scoring)"
    assert list(evaluated["test_reads"]) == [1, 3, 3, 3, 3]


def test_what_the_store_has_lost_stays_as_it_was_written(fabric: Fabric, collected: Collected) -> None:
    made = ledger(fabric, collected)
    made.write()
    before = made.path.read_bytes()
    for path in fabric.store.root.glob("*/*/done.json"):
        path.unlink()
    again = ledger(fabric, collected)
    again.write()
    assert again.path.read_bytes() == before
    assert again.lines == made.lines
    made.path.write_text("stage,cell\nprepare,x\n")
    with pytest.raises(InputError, match=r"demo\.ledger\.csv: not a ledger of this version"):
        Ledger(made.path, fabric.store)


def test_columns_beside_the_numbers(fabric: Fabric, collected: Collected) -> None:
    frame = with_costs(long_form(collected), collected, ledger(fabric, collected))
    row = frame[(frame["row"] == "HL") & (frame["metric"] == "accuracy")].iloc[0]
    costs = {name: row[name] for name in frame.columns[-8:]}
    assert costs == {
        **{"distill_cpu_seconds": 6.0, "distill_gpu_seconds": 4.0, "distill_peak_mb": 900.0, "distill_flops": 4000.0},
        **{"evaluate_cpu_seconds": 20.0, "evaluate_gpu_seconds": 0.0, "evaluate_peak_mb": 700.0},
        **{"evaluate_flops": 11.0},
    }


def test_when_a_set_has_paid_for_itself() -> None:
    assert payoff(distill=4000, full=1000, small=10) == 5  # 4000 / 990 = 4.04
    assert payoff(distill=990, full=1000, small=10) == 1
    assert payoff(distill=0, full=1000, small=10) == 0
    assert math.isinf(payoff(distill=1, full=10, small=10))
    assert math.isinf(payoff(distill=1, full=5, small=10))


def test_the_sentences_below_the_table(fabric: Fabric, collected: Collected) -> None:
    reuse, reads = sentences(collected, ledger(fabric, collected))
    # seconds: sets took 12 each; all rows train 2 s on average
    assert "HL 5 / never; hyper-parameter search is not counted in." in reuse
    assert "random" not in reuse
    assert reads == "Test split read in this experiment: sst2 by 5 cells (13 trained students scored)."


def test_a_search_is_counted_where_it_is_in_the_grid(
    fabric: Fabric, collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = fabric.experiment(FULL, {"distill.method.learning_rate": [0.1, 0.2, 0.3]}, name="searched")
    fabric.fill(experiment, lambda c: dict.fromkeys(c.splits, VALUES[c.source.method.name]))
    found = collect(experiment, fabric.store)
    (reuse, _) = sentences(found, ledger(fabric, found))
    # 3 sets of 4000 and 3 cells of 33: 12099 / 990 = 12.2
    assert "HL 5 / never (13); in brackets by FLOPs with the hyper-parameter search of this grid counted in" in reuse


def test_what_is_not_known_is_not_nothing(fabric: Fabric) -> None:
    experiment = fabric.experiment(RANDOM, {}, FULL)
    fabric.fill(experiment, lambda c: dict.fromkeys(c.splits, VALUES[c.source.method.name]))
    found = collect(experiment, fabric.store)
    made = ledger(fabric, found)
    entry = next(entry for (row, _), entry in found.entries.items() if row.kind == "ddal")
    assert cost_of(entry, made, "flops") is None
    assert cost_of(entry, made, "seconds") == (12.0, 2.0)
    assert with_costs(long_form(found), found, made)["distill_flops"].isna().all()
    assert points(found, made, found.layout.columns[0]) == []
    assert "HL ? / never" in sentences(found, made)[0]


def test_the_front_of_the_figure(fabric: Fabric, collected: Collected) -> None:
    made = ledger(fabric, collected)
    found = points(collected, made, collected.layout.columns[0])
    labels = collected.layout.labels
    assert [(labels[p.row], p.first, p.further) for p in found] == [
        ("random real", 5.0, 5.0),
        ("full data", 1000.0, 1000.0),
        ("HL", 4010.0, 10.0),
    ], "the majority label takes no compute and has no place on a log axis"
    assert [labels[point.row] for point in front(found)] == ["random real", "full data"]


def test_a_point_at_the_same_cost_that_is_better_replaces_the_other(fabric: Fabric, collected: Collected) -> None:
    made = ledger(fabric, collected)
    low, high, _ = sorted(points(collected, made, collected.layout.columns[0]), key=lambda point: point.mean)
    same = [Point(low.row, 7.0, 7.0, low.sample), Point(high.row, 7.0, 7.0, high.sample)]
    assert front(same) == [same[1]]
    assert front([]) == []


def test_lines_need_no_data(fabric: Fabric, collected: Collected, tmp_path: Path) -> None:
    made = ledger(fabric, collected)
    made.write()
    fabric.data.unlink()
    fabric.store.places._known.clear()
    again = ledger(fabric, collected)
    assert again.lines == made.lines
