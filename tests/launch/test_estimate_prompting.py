"""Cells that ask a language model through the launcher: estimate, run, status, tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline import stage4_aggregate
from pipeline.config import load
from pipeline.launch import run_stage, stage_cells
from pipeline.launch.estimate import estimate
from pipeline.store import Store
from tests.language_stand_in import byte_folder


@pytest.mark.usefixtures("forks")
def test_from_the_estimate_to_the_table(experiment: Callable[..., Path], tmp_path: Path) -> None:
    data = {"model": {"name": str(byte_folder(tmp_path / "model", positions=600)), "head": "language"}}
    protocol = {"name": "prompting", "labels": ["bad", "good"], "examples": 8}
    path = experiment(
        prepare={"test": 12},
        evaluate={"data": data, "protocol": protocol, "initialisations": 2, "splits": ["test"]},
        grids=[
            {"distill.method": [{"name": "empty"}]},
            {"distill.method": [{"name": "random", "shots": 2}], "seeds": 2},
        ],
        report={"paper": False, "compare": [["random real, prompted", "zero-shot"]]},
    )
    plan, store = load(path), Store(tmp_path / "ck")
    lines = estimate(plan, store, lambda text: None)
    for line in lines:
        assert line.predicted is not None, line.trouble
        assert all(each.seconds > 0 for each in line.predicted)
    for stage in ("distill", "evaluate"):
        outcome = run_stage(stage_cells(plan, store, stage), stage, store)
        assert not outcome.failed, outcome.failed
    stage4_aggregate.run(plan, store, tmp_path / "out")
    table = pd.read_csv(next(tmp_path.glob("out/*.table2.csv")))
    assert list(table["method"]) == ["zero-shot", "random real, prompted"]
    assert "8 test rows" in " ".join(table.columns)
    assert list(table["n (sets × initialisations)"]) == ["1 × 1", "2 × 2"]
    long = pd.read_csv(tmp_path / "out" / f"{plan.name}.csv").set_index(["row", "metric"])
    assert long.loc[("random real, prompted", "prompt_examples"), "mean"] == 4
    assert set(long["n_split"]) == {8}
    ledger = pd.read_csv(tmp_path / "out" / f"{plan.name}.ledger.csv")
    asked = ledger[ledger["stage"] == "evaluate"]
    assert sorted(asked["initialisations"]) == [1, 2, 2]
    assert (asked["flops"] > 0).all()
    tests = pd.read_csv(tmp_path / "out" / f"{plan.name}.tests.csv")
    assert tests["not_tested"].isna().all()
    page = next(tmp_path.glob("out/*.table2.md")).read_text()
    assert "Language model of our runs: model." in page
    assert "zero-shot, nothing" in page
    assert "too long" not in page
