"""What is said of a cell, by what lies in its folder and what the scheduler knows of its jobs."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Experiment, load
from pipeline.launch import display
from pipeline.launch.display import left as left_of
from pipeline.launch.display import text, to_json, watch
from pipeline.launch.scheduler import JobState
from pipeline.launch.stages import StageName, name_of, stage_cells
from pipeline.launch.status import Row, rows
from pipeline.store import Cell, Store
from pipeline.store.attempts import Attempt

STEPS = 100
Grid = Callable[..., Experiment]
HERE = {"host": os.uname().nodename, "pid": os.getpid()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    root = tmp_path / "root"
    root.mkdir()
    known = {f"{key}@main": {"revision": "0" * 40} for key in ("dataset:a/b", "model:c/d")}
    (root / "revisions.json").write_text(json.dumps(known))
    return Store(root)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """An experiment of hub references; nothing of it is ever run."""

    def grid(seeds: int = 1, **changes: Any) -> Experiment:
        base = {
            "prepare": {"task": {"name": "t", "source": {"kind": "hub", "id": "a/b"}, "text": ["x"]}, "model": "c/d"},
            "distill": {"method": {"name": "ddal", "outer": {"steps": STEPS}}},
            "evaluate": {"protocol": {"name": "ddal"}, "initialisations": 10},
        }
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump({"base": base, "grids": [{"distill.seed": list(range(seeds))} | changes]}))
        return load(path)

    return grid


def iso(ago: float) -> str:
    return datetime.fromtimestamp(time.time() - ago, UTC).isoformat(timespec="milliseconds")


def attempt(cell: Cell, ago: float = 600.0, **facts: Any) -> None:
    """Adds a record of an attempt that began ``ago`` seconds ago."""
    folder = cell.folder / "attempts"
    folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / "config.json").write_text("{}")
    number = 1 + len(list(folder.iterdir()))
    record = Attempt(number=number, began=iso(ago), **{"host": "n1", "pid": 7, "log": f"logs/{number}.log"} | facts)
    (folder / f"{number:03}.json").write_text(json.dumps(asdict(record)))


def failed(cell: Cell, **facts: Any) -> None:
    ended = {"outcome": "failed", "reason": "exception", "exception": "ValueError: no", "seconds": 60.0}
    attempt(cell, **ended | facts)


def done(cell: Cell, seconds: float = 100.0) -> None:
    attempt(cell, outcome="done", seconds=seconds)
    (cell.folder / "done.json").write_text(json.dumps({"seconds": seconds, "host": "n9"}))


def beats(cell: Cell) -> None:
    """Somebody refreshes the lease."""
    (cell.folder / "lease").write_text("x")


def cells(experiment: Experiment, store: Store, stage: StageName) -> list[Cell]:
    return stage_cells(experiment, store, stage)


def job(state: str, reason: str = "", **facts: Any) -> JobState:
    return JobState("12_3", state, reason, **facts)


def row_of(experiment: Experiment, store: Store, cell: Cell, *jobs: JobState, before: Sequence[str] = ()) -> Row:
    tables = {name_of(cell): [*before, *(one.id for one in jobs)]} if jobs or before else {}
    found = rows(experiment, store, {one.id: one for one in jobs}, tables)
    return next(row for row in found if row.name == name_of(cell))


# --- states -----------------------------------------------------------------------------------------------------


def test_nothing_is_there_yet(grid: Grid, store: Store) -> None:
    found = rows(grid(seeds=2), store, {}, {})
    assert [(row.stage, row.cells) for row in found] == [
        ("prepare", (0, 1)), ("distill", (0,)), ("distill", (1,)), ("evaluate", (0,)), ("evaluate", (1,))
    ]  # fmt: skip
    assert {(row.state, row.reason, row.why, row.attempts) for row in found} == {("missing", None, "", 0)}
    assert {path.name for path in store.root.iterdir()} == {"revisions.json"}, "looking writes nothing"


LIVE = job("RUNNING", node="n4", ends=time.time() + 3600)
REQUEUED = job("PENDING", "BeginTime", restarts=1, begins=time.time() + 100)


@pytest.mark.parametrize("known", [None, LIVE, REQUEUED, job("FAILED", code=1), job("CANCELLED")])
def test_the_artifact_is_believed_first(grid: Grid, store: Store, known: JobState | None) -> None:
    """A job that is requeued after it has finished will do nothing."""
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    done(cell, seconds=77)
    beats(cell)
    row = row_of(experiment, store, cell, *([known] if known else []))
    assert (row.state, row.seconds, row.node, row.attempts, row.reason) == ("done", 77, "n9", 1, None)


@pytest.mark.parametrize("known", [None, LIVE, REQUEUED, job("NODE_FAIL")])
def test_the_lease_is_believed_before_the_scheduler(grid: Grid, store: Store, known: JobState | None) -> None:
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    attempt(cell, job="12_3", host="n2")
    beats(cell)
    row = row_of(experiment, store, cell, *([known] if known else []))
    assert (row.state, row.node, row.job, row.attempts, row.log) == ("running", "n2", "12_3", 1, "logs/1.log")
    assert (row.slot_seconds is not None) == (known is LIVE)
    assert row.seconds == pytest.approx(600, abs=5)


@pytest.mark.parametrize("gpu", [None, "A100"])
def test_a_cell_on_the_cpu_of_a_job_with_gpus(grid: Grid, store: Store, tmp_path: Path, gpu: str | None) -> None:
    """Its log says so; the log of a job that was put back has what it said on another node, too."""
    log = tmp_path / "a.log"
    log.write_text("distill 1/1\nwarning: GPUs were given (SLURM_JOB_GPUS=0), but torch sees none\n")
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    attempt(cell, job="12_3", log=str(log), gpu=gpu)
    beats(cell)
    row = row_of(experiment, store, cell)
    assert (row.state, row.why) == ("running", "" if gpu else "on the CPU: torch sees none of its GPUs")


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (job("PENDING", "Resources"), "waits for free resources"),
        (job("PENDING", "Priority"), "waits behind jobs of higher priority"),
        (job("PENDING", "Dependency"), "waits for its distill cell"),
        (job("PENDING", "JobArrayTaskLimit"), "as many of its array run as may (at_once)"),
        (REQUEUED, "requeued, begins at "),
        (job("CONFIGURING", node="n3"), "is configuring on n3"),
        (job("COMPLETING", node="n3"), "is completing on n3"),
        (LIVE, "its job runs and has not reached it yet"),
    ],
)
@pytest.mark.parametrize("record", ["none", "stopped", "killed", "failed earlier"])
def test_pending(grid: Grid, store: Store, known: JobState, why: str, record: str) -> None:
    experiment = grid()
    (cell,) = cells(experiment, store, "evaluate")
    if record == "stopped":
        attempt(cell, job="12_3", outcome="stopped", reason="signal SIGUSR2", restarts=known.restarts - 1)
    if record == "killed":
        attempt(cell, job="12_3", restarts=known.restarts - 1)
    if record == "failed earlier":
        failed(cell, job="11_3")
    row = row_of(experiment, store, cell, known, before=["11_3"])
    assert (row.state, row.reason, row.job) == ("pending", None, "12_3")
    assert row.why.startswith(why)
    assert row.interrupted == (record in ("stopped", "killed"))


@pytest.mark.parametrize(
    ("facts", "reason", "why"),
    [
        ({}, "ValueError", "ValueError: no"),
        ({"reason": "give more rows", "exception": "InputError: give more rows"}, "InputError", "give more rows"),
        (
            {"reason": "out of memory", "exception": "OutOfMemoryError: CUDA out of memory. Tried"},
            "out of memory",
            "out of memory (OutOfMemoryError: CUDA out of memory. Tried)",
        ),
    ],
)
@pytest.mark.parametrize("known", [None, job("FAILED", code=1), job("COMPLETED"), LIVE, job("COMPLETING")])
def test_failed_by_an_exception(
    grid: Grid, store: Store, facts: dict[str, Any], reason: str, why: str, known: JobState | None
) -> None:
    """Also while the job goes on with its other cells."""
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    failed(cell)
    failed(cell, job="12_3", **facts)
    row = row_of(experiment, store, cell, *([known] if known else []))
    if known is not None and known.state == "COMPLETING":
        assert row.state == "pending", "it may come back"
        return
    assert (row.state, row.reason, row.why, row.attempts, row.log) == ("failed", reason, why, 2, "logs/2.log")


@pytest.mark.parametrize(
    ("ended", "state", "reason", "why"),
    [
        (job("OUT_OF_MEMORY", signal=125), "failed", "out of memory", "out of memory"),
        (job("TIMEOUT"), "failed", "time limit", "time limit"),
        (job("PREEMPTED"), "failed", "pre-empted", "pre-empted, interrupted 3 times"),
        (job("NODE_FAIL"), "failed", "node failure", "node failure"),
        (job("CANCELLED"), "failed", "cancelled", "cancelled"),
        (job("FAILED", signal=9), "failed", "killed by SIGKILL", "killed by SIGKILL, as it happens when memory runs"),
        (job("FAILED", code=9), "failed", "exit 9", "exit 9"),
        (job("COMPLETED"), "partial", None, "killed without a word on n1"),
        (None, "partial", None, "killed without a word on n1"),
    ],
)
def test_killed(grid: Grid, store: Store, ended: JobState | None, state: str, reason: str | None, why: str) -> None:
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    for _ in range(2):
        attempt(cell, job="12_3", outcome="stopped", reason="signal SIGTERM")
    attempt(cell, job="12_3")  # no end, no lease
    row = row_of(experiment, store, cell, *([ended] if ended else []))
    assert (row.state, row.reason, row.attempts, row.interrupted) == (state, reason, 3, 3)
    assert row.why.startswith(why)
    assert "interrupted 3 times" in row.why


@pytest.mark.parametrize("known", [None, job("FAILED", signal=9), job("COMPLETED")])
def test_killed_for_its_memory_says_the_log(grid: Grid, store: Store, tmp_path: Path, known: JobState | None) -> None:
    """Where SLURM kills by sampling or a step of srun dies, the job's state does not say so."""
    log = tmp_path / "a.log"
    log.write_text("x" * 9000 + "\nslurmstepd-n1: error: Exceeded job memory limit\n")
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    attempt(cell, job="12_3", log=str(log))
    row = row_of(experiment, store, cell, *([known] if known else []))
    assert (row.state, row.reason) == ("failed", "out of memory")


@pytest.mark.parametrize(
    ("ended", "state", "why"),
    [
        (None, "partial", "stopped by signal SIGINT on n1"),
        (job("COMPLETED"), "partial", "stopped by signal SIGINT on n1"),
        (job("FAILED", code=1), "partial", "stopped by signal SIGINT on n1"),
        (job("CANCELLED"), "failed", "cancelled"),
        (job("TIMEOUT"), "failed", "time limit"),
    ],
)
def test_stopped(grid: Grid, store: Store, ended: JobState | None, state: str, why: str) -> None:
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    attempt(cell, job="12_3", outcome="stopped", reason="signal SIGINT")
    row = row_of(experiment, store, cell, *([ended] if ended else []))
    assert (row.state, row.why) == (state, why)


@pytest.mark.parametrize(
    ("ended", "reason"),
    [(job("CANCELLED"), "cancelled"), (job("FAILED", signal=53), "its log could not be opened")],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_job_that_ended_before_it_began(
    grid: Grid, store: Store, ended: JobState, reason: str, earlier: bool
) -> None:
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    if earlier:
        attempt(cell, job="11_3", outcome="stopped", reason="signal SIGTERM")
    row = row_of(experiment, store, cell, ended, before=["11_3"])
    assert (row.state, row.reason, row.job) == ("failed", reason, "12_3")
    assert row.why == f"its job ended before it began: {reason}"


def test_a_job_of_which_slurm_keeps_nothing(grid: Grid, store: Store) -> None:
    """As elements that are cancelled while they wait."""
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    other = {"99": JobState("99", "PENDING")}
    (row,) = (row for row in rows(experiment, store, other, {name_of(cell): ["12_3"]}) if row.name == name_of(cell))
    assert (row.state, row.why, row.job) == ("missing", "its job left the queue before it began", "12_3")
    (row,) = (row for row in rows(experiment, store, {}, {name_of(cell): ["12_3"]}) if row.name == name_of(cell))
    assert (row.state, row.why) == ("missing", ""), "nobody was asked"


STUCK = job("PENDING", "DependencyNeverSatisfied")


@pytest.mark.parametrize("known", [STUCK, job("CANCELLED"), job("CANCELLED", "DependencyNeverSatisfied"), None])
@pytest.mark.parametrize("given", [True, False])
def test_its_source_failed(grid: Grid, store: Store, known: JobState | None, given: bool) -> None:
    experiment = grid()
    (source,), (cell,) = cells(experiment, store, "distill"), cells(experiment, store, "evaluate")
    failed(source)
    row = row_of(experiment, store, cell, *([known] if known and given else []), before=["1"] if given else [])
    assert row.state == ("failed" if given else "missing")
    assert row.reason == ("source failed" if given else None)
    assert row.why == "its distill cell failed"


def test_a_job_that_can_never_start(grid: Grid, store: Store) -> None:
    """Its source has been made since, by another job than the one it waits for."""
    experiment = grid()
    (source,), (cell,) = cells(experiment, store, "distill"), cells(experiment, store, "evaluate")
    done(source)
    row = row_of(experiment, store, cell, STUCK)
    assert (row.state, row.reason) == ("failed", "never starts")
    assert row.why == "its job can never start: the job it waits for failed"


def test_suspended_jobs_run(grid: Grid, store: Store) -> None:
    """Their lease runs out meanwhile."""
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    attempt(cell, job="12_3")
    row = row_of(experiment, store, cell, job("SUSPENDED", node="n1"))
    assert (row.state, row.why) == ("running", "suspended")


def test_the_live_one_of_several_jobs_counts(grid: Grid, store: Store) -> None:
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    jobs = [JobState("9", "PENDING", "Priority"), JobState("10", "CANCELLED")]
    assert row_of(experiment, store, cell, *jobs).job == "9"
    assert row_of(experiment, store, cell, *jobs).state == "pending"


# --- progress ---------------------------------------------------------------------------------------------------


def log(cell: Cell, steps: int, ago: float = 0.0) -> None:
    lines = "".join(f"{step},0,0.69,0.2,0.1,,,1.5\n" for step in range(1, steps + 1))
    path = cell.folder / "log.csv"
    path.write_text(f"step,epoch,loss,gradient_norm,learning_rate,validation_loss,validation_accuracy,seconds\n{lines}")
    os.utime(path, (time.time() - ago, time.time() - ago))


def results(cell: Cell, count: int) -> None:
    lines = "".join(f"{i},{split},accuracy,0.5,1.0\n" for i in range(count) for split in ("dev", "test"))
    (cell.folder / "results.csv").write_text(f"initialisation,split,metric,value,seconds\n{lines}")


@pytest.mark.parametrize(
    ("before", "saved_ago", "left"),
    [
        (0, 0.0, 60 * 10.0),  # 40 steps in 400 s, 60 to go
        (20, 0.0, 60 * 20.0),  # only 20 of them in this attempt
        (20, 100.0, 60 * 15.0 - 100),  # saved 300 s after it began, and at it since
        (40, 0.0, None),  # nothing saved yet by this attempt
    ],
)
def test_steps_and_the_time_they_take(
    grid: Grid, store: Store, before: int, saved_ago: float, left: float | None
) -> None:
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    attempt(cell, ago=400, rows=before)
    beats(cell)
    log(cell, 40, ago=saved_ago)
    row = row_of(experiment, store, cell)
    assert (row.state, row.progress, row.total) == ("running", 40, STEPS)
    assert row.seconds_left == (None if left is None else pytest.approx(left, rel=0.02))


def test_a_line_that_is_being_written_does_not_count(grid: Grid, store: Store) -> None:
    experiment = grid()
    (cell,) = cells(experiment, store, "distill")
    attempt(cell)
    log(cell, 7)
    with open(cell.folder / "log.csv", "a") as file:
        file.write("8,0,0.6")
    assert row_of(experiment, store, cell).progress == 7
    log(cell, 0)
    assert row_of(experiment, store, cell).progress == 0


def test_steps_of_epochs_need_the_size_of_the_data(grid: Grid, store: Store) -> None:
    experiment = grid(**{"distill.method.outer": [{"steps": None, "epochs": 3, "batch_size": 8, "real_batches": 2}]})
    (prepared,), (cell,) = cells(experiment, store, "prepare"), cells(experiment, store, "distill")
    attempt(cell)
    log(cell, 5)
    assert row_of(experiment, store, cell).total is None
    prepared.folder.mkdir(parents=True)
    (prepared.folder / "manifest.json").write_text(json.dumps({"sizes": {"train": 101}}))
    assert row_of(experiment, store, cell).total == 3 * (12 // 2)


def test_initialisations(grid: Grid, store: Store) -> None:
    experiment = grid()
    (cell,) = cells(experiment, store, "evaluate")
    attempt(cell, ago=300, rows=4)  # two of them, on two splits
    beats(cell)
    results(cell, 5)
    row = row_of(experiment, store, cell)
    assert (row.state, row.progress, row.total) == ("running", 5, 10)
    assert row.seconds_left == pytest.approx(5 * 100, rel=0.02)


# --- estimates --------------------------------------------------------------------------------------------------


def test_estimates_by_equals_then_by_stage(grid: Grid, store: Store) -> None:
    experiment = grid(seeds=4, **{"distill.method.steps": [1, 5]})
    assert {str(left) for left in left_of(rows(experiment, store, {}, {})).values()} == {
        "1 cells left, nothing measured yet",
        "8 cells left, nothing measured yet",
    }
    distill = cells(experiment, store, "distill")
    slow = [cell for cell in distill if cell.config.method.steps == 5]  # type: ignore[union-attr]
    fast = [cell for cell in distill if cell not in slow]
    for cell, seconds in zip(slow, (3600, 7200, 36000), strict=False):
        done(cell, seconds)
    left = left_of(rows(experiment, store, {}, {}))
    assert left["distill"].cells == 5
    assert left["distill"].hours == pytest.approx(5 * 2.0), "all by the stage's median"
    done(fast[0], 360)
    left = left_of(rows(experiment, store, {}, {}))
    assert left["distill"].hours == pytest.approx(2.0 + 3 * 0.1)
    assert left["distill"].seconds.keys() == {name_of(cell) for cell in [slow[3], *fast[1:]]}
    assert left["evaluate"].hours is None
    attempt(slow[3])
    log(slow[3], STEPS // 2)
    assert left_of(rows(experiment, store, {}, {}))["distill"].hours == pytest.approx(1.0 + 3 * 0.1), (
        "half of it is there"
    )


# --- pictures ---------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(grid: Grid, store: Store) -> list[Row]:
    """One cell of every sort."""
    experiment = grid(seeds=6)
    (prepared,) = cells(experiment, store, "prepare")
    done(prepared, 5)
    one, two, three, four, five, _ = cells(experiment, store, "distill")
    done(one, 8000)
    attempt(two, ago=400, outcome="stopped", reason="signal SIGTERM", seconds=90.0)
    attempt(two, ago=405, rows=20, job="7_1", host="n2")  # so 1215 s are left, which stays 20m
    beats(two)
    log(two, 40)
    failed(three, job="7_2")
    attempt(four, **HERE | {"outcome": "stopped", "reason": "signal SIGINT"})
    log(four, 10)
    tables = {name_of(cell): [f"8_{number}"] for number, cell in enumerate(cells(experiment, store, "evaluate"))}
    tables |= {name_of(two): ["7_1"], name_of(three): ["7_2"], name_of(five): ["7_4"]}
    jobs = {
        "7_1": JobState("7_1", "RUNNING", ends=time.time() + 4000, node="n2"),
        "7_2": JobState("7_2", "FAILED", code=1),
        "7_4": JobState("7_4", "PENDING", "Resources"),
        "8_0": JobState("8_0", "PENDING", "Priority"),
        "8_2": JobState("8_2", "PENDING", "DependencyNeverSatisfied"),
    } | {f"8_{number}": JobState(f"8_{number}", "PENDING", "Dependency") for number in (1, 3, 4, 5)}
    return rows(experiment, store, jobs, tables)


def test_the_picture(busy: list[Row]) -> None:
    lines = text(busy, width=110).splitlines()
    assert lines[0].split() == ["prepare", "1", "done"]
    assert lines[1].split("eta")[0].split() == (
        ["distill", "1", "done", "1", "running", "1", "pending", "1", "failed", "1", "partial", "1", "missing"]
    )
    assert lines[1].endswith("eta 2h33m"), "8000 s as the one that is done, and 1215 s"
    assert lines[2].split() == ["evaluate", "5", "pending", "1", "failed"]
    table = "\n".join(lines[4:])
    assert len([line for line in lines[4:] if not line.startswith(" " * 11)]) == len(busy)
    for words in (
        "      0-5  prepare   done     5s",
        "        0  distill   done     2h13m",
        "        1  distill   running  step 40/100, 20m left, slot 1h06m, n2, interrupted 1x",
        "        2  distill   failed   attempt 1, job 7_2, n1",
        "\n           ValueError: no\n           logs/1.log\n",
        "        3  distill   partial  step 10/100, stopped by signal SIGINT on ",
        "        4  distill   pending  waits for free resources",
        "        5  distill   missing",
        "        0  evaluate  pending  waits behind jobs of higher priority",
        "        1  evaluate  pending  waits for its distill cell",
        "        2  evaluate  failed   job 8_2",
        "\n           source failed: its distill cell failed\n",
    ):
        assert words in table
    assert all(len(line) <= 110 for line in lines)
    assert all(line.endswith(row.name[-8:]) for row, line in zip(busy[:3], lines[4:7], strict=True))


def test_colours_are_for_terminals(busy: list[Row]) -> None:
    colored = text(busy, width=110, color=True)
    assert "\x1b[31mfailed \x1b[0m" in colored
    for code in ("31", "32", "33", "35", "36", "2"):
        colored = colored.replace(f"\x1b[{code}m", "")
    assert colored.replace("\x1b[0m", "") == text(busy, width=110)


def test_a_narrow_terminal(busy: list[Row]) -> None:
    paths = {row.log for row in busy}
    assert all(len(line) <= 80 or line.strip() in paths for line in text(busy, width=80).splitlines()[3:])


def test_what_was_not_asked_is_said(busy: list[Row]) -> None:
    assert text(busy, note="SLURM does not answer").endswith("\n\nSLURM does not answer")


def test_json_has_everything(busy: list[Row]) -> None:
    found = json.loads(to_json(busy))
    assert set(found) == {"format", "counts", "hours_left", "cells"}
    assert found["format"] == "textdd-status/1"
    assert found["counts"]["distill"] == dict.fromkeys(
        ["done", "running", "failed", "partial", "pending", "missing"], 1
    )
    assert found["counts"]["evaluate"] == {"pending": 5, "failed": 1}
    assert found["hours_left"] == {
        "prepare": 0, "distill": pytest.approx((1200 + 7200 + 3 * 8000) / 3600, rel=0.02), "evaluate": None
    }  # fmt: skip
    assert [cell["name"] for cell in found["cells"]] == [row.name for row in busy]
    assert {tuple(cell) for cell in found["cells"]} == {tuple(field.name for field in fields(Row))}
    (running,) = (cell for cell in found["cells"] if cell["state"] == "running")
    facts = {
        "stage": "distill", "cells": [1], "progress": 40, "total": 100, "attempts": 2, "interrupted": 1,
        "job": "7_1", "node": "n2", "log": "logs/2.log", "reason": None,
    }  # fmt: skip
    assert {name: running[name] for name in facts} == facts


# --- watching ---------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def looks(monkeypatch: pytest.MonkeyPatch, *pictures: tuple[list[Row], str | None]) -> tuple[Any, list[float]]:
    """What is to be seen, one after the other, and how long was slept between."""
    slept: list[float] = []
    monkeypatch.setattr(display.time, "sleep", slept.append)
    remaining = list(pictures)
    return (lambda: remaining.pop(0)), slept


def made(*states: str) -> list[Row]:
    return [Row("distill", f"distill/c{number}", (number,), state) for number, state in enumerate(states)]  # type: ignore[arg-type]


def test_elsewhere_a_change_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    refresh, slept = looks(
        monkeypatch,
        (made("pending", "pending"), None),
        (made("pending", "pending"), None),
        (made("running", "pending"), None),
        (made("done", "missing"), "SLURM does not answer"),
        (made("done", "failed"), None),
    )
    out = io.StringIO()
    watch(refresh, 7.0, out)
    said = out.getvalue()
    assert slept == [7.0] * 4, "it does not end on what SLURM did not answer, but where nothing is left to wait for"
    lines = [line.split(maxsplit=1)[1] for line in said.splitlines() if " distill/" in line]
    assert lines == ["distill/c0 running", "distill/c0 done", "distill/c1 missing", "distill/c1 failed"]
    assert "\x1b" not in said


def test_a_terminal_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    many = made(*["running"] * 50)
    refresh, slept = looks(monkeypatch, (many, None), (many, None), (made("done"), None))
    monkeypatch.setattr(display.shutil, "get_terminal_size", lambda: os.terminal_size((90, 24)))
    out = Terminal()
    watch(refresh, 2.0, out)
    assert slept == [2.0, 2.0]
    one, two, three = out.getvalue().split("\x1b[H")[1:]
    assert out.getvalue().startswith("\x1b[2J\x1b[H")
    assert one == two
    assert one.count("\n") == 23
    assert "more lines: status without --watch" in one
    assert "1 done" in three
    assert three.endswith("\x1b[J")


def test_ctrl_c_ends_it_quietly() -> None:
    def interrupted() -> tuple[list[Row], None]:
        raise KeyboardInterrupt

    watch(interrupted, 1.0, io.StringIO())


# --- size -------------------------------------------------------------------------------------------------------


def test_500_cells(grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three stages of 500 cells, most of them begun, with records, logs and results, and 700 jobs."""
    experiment = grid(seeds=500)
    jobs, tables = {}, {}
    for prepared in cells(experiment, store, "prepare"):
        done(prepared)
    for number, cell in enumerate(cells(experiment, store, "distill")):
        tables[name_of(cell)] = [f"7_{number}"]
        if number < 300:
            done(cell)
        elif number < 400:
            attempt(cell, outcome="stopped", reason="signal SIGTERM", job=f"7_{number}")
            attempt(cell, rows=3, job=f"7_{number}")
            log(cell, 60)
            beats(cell)
            jobs[f"7_{number}"] = JobState(f"7_{number}", "RUNNING")
        elif number < 450:
            failed(cell)
        else:
            jobs[f"7_{number}"] = JobState(f"7_{number}", "PENDING", "Priority")
    for number, cell in enumerate(cells(experiment, store, "evaluate")):
        tables[name_of(cell)] = [f"8_{number}"]
        if number < 200:
            attempt(cell, rows=4)
            results(cell, 5)
            beats(cell)
        else:
            jobs[f"8_{number}"] = JobState(f"8_{number}", "PENDING", "Dependency")
    opened: list[Any] = []
    plain = io.open
    for name in ("builtins.open", "io.open"):
        monkeypatch.setattr(name, lambda *given, **named: (opened.append(given[0]), plain(*given, **named))[1])
    found = rows(experiment, store, jobs, tables)
    monkeypatch.undo()
    shown, everything, written = text(found), text(found, everything=True), to_json(found)
    assert 0 < len(opened) < 5 * len(found), "files opened; the seconds are in analysis/benchmarks/launching.py"
    assert len(found) == 1001
    assert json.loads(written)["counts"] == {
        "prepare": {"done": 1},
        "distill": {"done": 300, "running": 100, "failed": 50, "pending": 50},
        "evaluate": {"running": 200, "pending": 300},
    }
    assert len(everything.splitlines()) == 4 + 1001 + 2 * 50
    table = [line for line in shown.splitlines()[4:] if " running " not in line]
    assert table[0].startswith("  400-449  distill   failed   50 cells, such as")
    assert table[1:3] == [f"{'':>11}ValueError: no", f"{'':>11}logs/1.log"]
    assert table[3].startswith("  450-499  distill   pending  50 cells: waits behind jobs of higher priority")
    assert table[4].startswith("  200-499  evaluate  pending  300 cells: waits for its distill cell")
    assert len(table) == 5
