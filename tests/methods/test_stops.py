"""Stage 2 is stopped and killed at many moments and ends, bit for bit, where an undisturbed run ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import load as load_experiment
from pipeline.distilled import load
from pipeline.launch import run_stage, stage_cells
from pipeline.store import Cell, Store
from tests.conftest import table
from tests.forked import ROOT, Forked, module
from tests.methods.disturbance import Disturbance, launch

Write = Callable[..., Path]
STEPS = 14
SMALL = {
    "labels": "unrestricted",
    "attention_labels": "cls",
    "steps": 2,
    "dropout": True,
    "outer": {"steps": STEPS, "batch_size": 8},
    "validation": {"every": 5, "initialisations": 3},
}


@pytest.fixture
def small(experiment: Write) -> Write:
    """An experiment of a few outer steps that saves every so many seconds."""

    def write(save_seconds: float, **more: Any) -> Path:
        runtime = {"runtime": {"threads": 1, "save_seconds": save_seconds}}
        return experiment(method=SMALL | more, distill=runtime)

    return write


def cell_of(path: Path, root: Path) -> Cell:
    """The set's cell, with its data prepared."""
    config, store = load_experiment(path), Store(root)
    assert not run_stage(stage_cells(config, store, "prepare"), "prepare", store).failed
    (cell,) = stage_cells(config, store, "distill")
    return cell


def undisturbed(path: Path, root: Path) -> Cell:
    cell = cell_of(path, root)
    assert not run_stage([cell], "distill", Store(root)).failed
    return cell


def saved_step(cell: Cell) -> int:
    return int(torch.load(cell.folder / "progress.pt", weights_only=True)["step"])


def logged(cell: Cell) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table(cell.folder / "log.csv")]


def assert_equal(one: Cell, other: Cell) -> None:
    """The sets, to the last bit, the state that would go on from here, and the log."""
    ours, theirs = (load(cell.folder / "distilled.h5") for cell in (one, other))
    tensors = {name: value for name, value in vars(ours).items() if isinstance(value, torch.Tensor)}
    assert len(tensors) >= 5
    assert all(torch.equal(value, vars(theirs)[name]) for name, value in tensors.items())
    assert ours.about["selection"] == theirs.about["selection"]
    assert len(logged(one)) == STEPS
    assert logged(one) == logged(other)


# --- at chosen moments ---------------------------------------------------------------------------------------------

LOADING = "pipeline.methods.ddal:Student.load"
STEP = "pipeline.methods.outer:hypergradient"
VALIDATION = "pipeline.methods.ddal:score"
SAVE = "torch:save"
SET = "pipeline.stage2_distill:save"
RECORD = "pipeline.store.attempts:end"
# Which call of which function the signal meets, and the step that is saved then. Validations are at 5, 10 and 14.
STOPS = [
    ((LOADING, 1), None),  # nothing to save yet
    ((STEP, 2), 2),
    ((STEP, 1), 3),
    ((STEP, 2), 5),  # the validation that is due waits for the next run
    ((VALIDATION, 2), 5),  # and is begun again by the next
    ((VALIDATION, 3), 5),
    ((VALIDATION, 4), 10),
    ((STEP, 3), 13),
    ((SET, 1), STEPS),
]
KILLS = [
    ((LOADING, 1), None),
    ((STEP, 3), 2),
    ((VALIDATION, 2), 4),
    ((SAVE, 4), 7),
    (("pipeline.store.atomic:os.replace", 7), 9),  # the fourth file after config, two records and log
    (("pipeline.methods.ddal:Checkpoint.save", 2), 10),
    ((SET, 1), STEPS),
    ((RECORD, 1), STEPS),
    (("pipeline.store.cells:provenance", 1), STEPS),
]


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGUSR2", 85)])
def test_stopped_at_any_moment_it_loses_nothing(small: Write, tmp_path: Path, name: str, status: int) -> None:
    path = small(3600)  # what is saved, the signal saved
    cell = cell_of(path, tmp_path / "b")
    moments = [Disturbance(*moment, name) for moment, _ in STOPS]
    ended, said = launch("distill", path, tmp_path / "b", [*moments, Disturbance(RECORD, 1, name)])
    assert [launch.step for launch in ended] == [*(step for _, step in STOPS), STEPS], said
    assert [launch.status for launch in ended] == [status] * len(STOPS) + [0], said
    assert said.count(f"{name}: saving and stopping") == len(STOPS) + 1
    assert said.count(f"stopped by {name}; saved") == len(STOPS)
    assert "Traceback" not in said
    attempts = cell.attempts()
    assert [attempt.outcome for attempt in attempts] == ["stopped"] * len(STOPS) + ["done"]
    assert {attempt.reason for attempt in attempts[:-1]} == {f"signal {name}"}
    assert not list(cell.folder.glob(".*"))
    assert not cell.exhausted(3)
    assert_equal(undisturbed(path, tmp_path / "a"), cell)


def test_ctrl_c_finishes_the_step_and_a_second_one_does_not(small: Write, tmp_path: Path) -> None:
    path = small(3600)
    cell = cell_of(path, tmp_path / "b")
    once = Disturbance(STEP, 3, "SIGINT")
    twice = Disturbance(STEP, 2, "SIGINT", pause=1.5, again=True)
    ended, said = launch("distill", path, tmp_path / "b", [once, twice])
    assert [(launch.status, launch.step) for launch in ended] == [(130, 3), (130, 3)], said
    assert [attempt.reason for attempt in cell.attempts()] == ["signal SIGINT"] * 2


def test_killed_at_any_moment_it_loses_what_was_not_saved(small: Write, tmp_path: Path) -> None:
    path = small(0)
    cell = cell_of(path, tmp_path / "b")
    moments = [Disturbance(*moment, "SIGKILL") for moment, _ in KILLS]
    ended, said = launch("distill", path, tmp_path / "b", [*moments, None])
    assert [launch.step for launch in ended] == [*(step for _, step in KILLS), STEPS], said
    assert [launch.status for launch in ended] == [-signal.SIGKILL] * len(KILLS) + [0], said
    outcomes = [attempt.outcome for attempt in cell.attempts()]
    assert outcomes == ["killed"] * (len(KILLS) - 1) + ["done", "done"], "the last one had ended, all but its last file"
    assert all(attempt.seconds for attempt in cell.attempts()[1:]), "known by what they had written, if anything"
    assert not list(cell.folder.glob(".*")), "what they left half written"
    assert_equal(undisturbed(path, tmp_path / "a"), cell)


def test_signals_from_outside_at_moments_that_nobody_chose(small: Write, tmp_path: Path) -> None:
    """The command line itself, hit after a random time, again and again; mostly while it loads or computes."""
    path, root = small(0.2, outer={"steps": STEPS, "batch_size": 64}), tmp_path / "b"
    cell = cell_of(path, root)
    for name, status in (("SIGINT", 130), ("SIGKILL", -9), ("SIGUSR1", 85)):
        process = Forked(module("pipeline.stage2_distill"), path, "--root", root)
        while process.poll() is None and "distill 1/1" not in process.said()[1]:  # until it is at the cell
            time.sleep(0.01)
        time.sleep(random.uniform(0, 2))
        process.send_signal(getattr(signal, name))
        assert process.wait() == status or cell.state == "done"
    command = [sys.executable, "-m", "pipeline.stage2_distill", str(path), "--root", str(root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert_equal(undisturbed(path, tmp_path / "a"), cell)


# --- where nothing can be lost -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "where"),
    [
        ("prepare", "pipeline.stage1_prepare:load_splits"),
        ("prepare", "pipeline.stage1_prepare:save"),
        ("distill", "pipeline.methods.ddal:Student.load"),
        ("run", "pipeline.methods.gradient_check:canary_of"),
    ],
)
def test_outside_of_loops_a_signal_ends_it_at_once(small: Write, tmp_path: Path, stage: str, where: str) -> None:
    path = small(0)
    if stage != "prepare":
        cell_of(path, tmp_path / "b")
    (ended,), said = launch(stage, path, tmp_path / "b", [Disturbance(where, 1, "SIGTERM", pause=60)])
    assert ended.status == 143, said
    assert ended.seconds < 20
    assert "Traceback" not in said
    records = list((tmp_path / "b").glob(f"{stage}/*/attempts/*.json"))
    assert len(records) == (stage != "run")
    assert all('"stopped"' in record.read_text() for record in records)
    assert not list((tmp_path / "b").glob("*/*/lease"))
