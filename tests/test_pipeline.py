"""The four stages end to end, without a network; and the first steps of the real quickstart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config import load as load_experiment
from pipeline.distilled import load
from pipeline.launch import run_stage, stage_cells
from pipeline.store import Store
from tests.conftest import table
from tests.forked import completed as run

Write = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[1]
GRID = [
    {
        "distill.method": [{"name": "majority"}],
        "evaluate.protocol": [{"name": "majority"}],
        "evaluate.initialisations": [1],
    },
    {
        "distill.method": [{"name": "random"}],
        "distill.seed": [0, 1],
        "evaluate.protocol": [{"name": "finetune", "steps": 5}],
        "evaluate.initialisations": [1],
    },
    {"distill.method": [{"labels": "hard"}, {"labels": "unrestricted", "attention_labels": "cls"}]},
]


def interpreted(*arguments: object) -> subprocess.CompletedProcess[str]:
    """By an interpreter that has imported nothing; ``run`` does the same, and sooner."""
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_one_command_runs_all_and_a_second_time_nothing(experiment: Write, tmp_path: Path) -> None:
    path = experiment(grids=GRID, report={"paper": False, "compare": [["SL + AL", "random real"]]})
    places = ["--root", tmp_path / "ck", "--out", tmp_path / "results"]
    first = interpreted("pipeline", "run", path, *places)
    assert first.returncode == 0, first.stderr
    for row in ("majority", "random real", "HL", "SL + AL"):
        assert f"| {row} |" in first.stdout
    assert "SL + AL − random real" in first.stdout
    sets = [line.split(": ")[1] for line in first.stdout.splitlines() if line.startswith("distilled set: ")]
    assert len(sets) == 2
    assert all(load(found).about["classes"] == ["0", "1"] for found in sets)
    frame = pd.read_csv(tmp_path / "results" / "tiny.csv")
    headline = frame[(frame["metric"] == "accuracy") & (frame["split"] == "test")].set_index("row")
    assert headline.loc["majority", "mean"] == 0.5
    assert headline.loc["random real", "n_seed"] == 2
    assert headline.loc["SL + AL", "n"] == 2
    assert (tmp_path / "results" / "tiny.png").stat().st_size > 5000
    tables = {file.name: file.read_bytes() for file in (tmp_path / "results").iterdir() if file.suffix != ".pdf"}

    artifacts = {file: file.stat().st_mtime_ns for file in (tmp_path / "ck").rglob("*") if file.is_file()}
    second = run("pipeline", "run", path, *places)
    assert second.returncode == 0
    assert "distill: 0 done now, 5 done before, 0 failed" in second.stderr
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "ck").rglob("*") if file.is_file()} == artifacts
    again = {file.name: file.read_bytes() for file in (tmp_path / "results").iterdir() if file.suffix != ".pdf"}
    assert again == tables


def test_numbered_stages_alone_equal_the_one_command(experiment: Write, tmp_path: Path) -> None:
    path = experiment(grids=GRID)
    assert run("pipeline", "run", path, "--root", tmp_path / "a", "--out", tmp_path / "ra").returncode == 0
    for stage, index in (("stage1_prepare", 0), ("stage2_distill", 4), ("stage3_evaluate", 4)):
        done = interpreted(f"pipeline.{stage}", path, "--index", index, "--root", tmp_path / "b")
        assert done.returncode == 0, done.stderr
        assert "1 done now, 0 done before" in done.stderr
    for stage in ("stage2_distill", "stage3_evaluate"):
        done = run(f"pipeline.{stage}", path, "--root", tmp_path / "b")
        assert done.returncode == 0, done.stderr
        assert "4 done now, 1 done before" in done.stderr
    done = run("pipeline.stage4_aggregate", path, "--root", tmp_path / "b", "--out", tmp_path / "rb")
    assert done.returncode == 0, done.stderr
    tables = (pd.read_csv(tmp_path / folder / "tiny.csv") for folder in ("ra", "rb"))
    one, other = (table.filter(regex="^(?!.*(seconds|peak_mb))") for table in tables)
    pd.testing.assert_frame_equal(one, other)


def test_a_failing_cell_is_named_and_the_others_go_on(experiment: Write, tmp_path: Path) -> None:
    grids = [{"distill.method": [{"labels": "hard"}, {"labels": "hard", "sequence_length": 39}]}]
    path = experiment(prepare={"max_length": 30}, grids=grids)
    done = run("pipeline", "run", path, "--root", tmp_path / "ck", "--out", tmp_path / "results")
    assert done.returncode == 0, done.stderr  # 39 of 40 positions: fits
    path = experiment(grids=[{"distill.method": [{"labels": "hard"}, {"labels": "soft", "sequence_length": 41}]}])
    done = run("pipeline", "run", path, "--root", tmp_path / "ck", "--out", tmp_path / "results")
    assert done.returncode == 1
    assert "sequence_length: 41 is more than the 40 usable positions" in done.stdout
    assert "Traceback" not in done.stderr
    assert "| HL |" in done.stdout


@pytest.fixture(scope="module")
def first_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten outer steps of the quickstart's SL + AL cell: the real encoder, the real sentences."""
    root = tmp_path_factory.mktemp("quickstart")
    settings = [
        "distill.method.outer.steps=10",
        "distill.method.validation.split=none",
        "distill.method.labels=unrestricted",
        "distill.method.attention_labels=cls",
    ]
    experiment, store = load_experiment(ROOT / "configs" / "quickstart.yaml", settings), Store(root)
    cell = next(cell for cell in experiment.cells if cell.source.method.name == "ddal")
    small = experiment.model_copy(update={"cells": (cell,)})
    for stage in ("prepare", "distill"):
        outcome = run_stage(stage_cells(small, store, stage), stage, store)
        assert not outcome.failed, outcome.failed
    return root


def test_the_quickstart_prepares_what_it_says(first_steps: Path) -> None:
    (manifest_file,) = (first_steps / "prepare").glob("*/manifest.json")
    manifest = json.loads(manifest_file.read_text())
    assert manifest["sizes"] == {"train": 6909, "dev": 768, "test": 853}
    assert manifest["fresh_parameters"] == ["classifier.weight", "classifier.bias"]
    assert (manifest["attention_layers"], manifest["attention_heads"]) == (6, 12)


def test_the_quickstarts_expected_loss(first_steps: Path) -> None:
    """Recorded on two CPU cores with torch 2.13, the same at one and two threads; the tolerance is for other kernels.

    The losses of ten steps are still near ln 2; the norms of the hypergradient tell more.
    """
    (log,) = (first_steps / "distill").glob("*/log.csv")
    rows = table(log)
    assert [float(row["loss"]) for row in rows] == pytest.approx(LOSSES, abs=5e-4)
    assert [float(row["gradient_norm"]) for row in rows] == pytest.approx(GRADIENT_NORMS, rel=0.02)


LOSSES = [0.6933, 0.6890, 0.6887, 0.6814, 0.7050, 0.7069, 0.6893, 0.6868, 0.6991, 0.6869]
GRADIENT_NORMS = [0.05690, 0.06890, 0.1024, 0.05513, 0.1202, 0.09688, 0.1168, 0.1745, 0.05344, 0.03480]


def test_a_sweep_that_could_not_be_decided_is_refused_before_anything_runs(experiment: Write, tmp_path: Path) -> None:
    path = experiment(evaluate={"protocol": {"name": "ddal"}, "splits": ["test"]})
    done = run("pipeline", "run", path, "--root", tmp_path / "ck", "--set", "distill.method.outer.lr=0.01,0.02")
    assert done.returncode == 2
    assert "2 alternatives differ in distill.method.outer.lr and the best is chosen on dev" in done.stderr
    assert "write evaluate.splits: [dev, test]" in done.stderr
    assert not (tmp_path / "ck").exists()


def test_a_run_without_results_leaves_the_old_tables(experiment: Write, tmp_path: Path) -> None:
    path = experiment(prepare={"max_length": 4000})
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "tiny.csv").write_text("kept")
    done = run("pipeline", "run", path, "--root", tmp_path / "ck", "--out", tmp_path / "results")
    assert done.returncode == 1
    assert "prepare: 0 done now, 0 done before, 1 failed" in done.stderr
    why = f"python -m pipeline status {path} --root {tmp_path / 'ck'} says why"
    assert f"no cell has results yet, so that {tmp_path / 'results'} is left as it is; {why}" in done.stderr
    assert (tmp_path / "results" / "tiny.csv").read_text() == "kept"


def test_rows_that_are_also_in_train_or_empty_are_counted(experiment: Write, tmp_path: Path) -> None:
    rows = [{"text": f"good word{number}", "label": number % 2} for number in range(20)]
    data = tmp_path / "twice.jsonl"
    empty = {"text": " ", "label": 0}
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows, empty, empty]))
    task = {"name": "twice", "source": {"kind": "files", "train": str(data)}, "text": "text"}
    path = experiment(prepare={"task": task, "dev": 4, "test": 4})
    done = run("pipeline.stage1_prepare", path, "--root", tmp_path / "ck")
    assert done.returncode == 0, done.stderr
    (manifest_file,) = (tmp_path / "ck" / "prepare").glob("*/manifest.json")
    counts = json.loads(manifest_file.read_text())["also_in_train"]
    assert set(counts) == {"dev", "test"}
    assert sum(counts.values()) > 0
    assert "rows have the same text as a train row" in done.stderr
    without = re.findall(r"^note: (\d+) of \d+ \w+ rows have no text$", done.stderr, re.MULTILINE)
    assert sum(map(int, without)) == 2
