"""``python -m pipeline run --cluster slurm``, ``status``, ``retry`` and ``cancel`` against a real SLURM."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.launch.submission import Submission, all_of
from pipeline.store.attempts import Attempt, attempts_of
from tests.slurm.conftest import REPOSITORY, Tiny, made
from tests.slurm.rig import Slurm, running

Write = Callable[..., Tiny]
DDAL, FINETUNE = {"name": "ddal"}, {"name": "finetune", "steps": 5}
TOO_LONG = {"distill.method.sequence_length": [41]}  # the encoder has 40 positions, which stage 2 finds out
# Python starts this file by itself, in jobs, too. Where a cell has a file in waits/, its process waits at its second
# save, of step 2 of 3, until a signal comes; once. At its end a job says what it saw of the hub and of the code.
GATE = """
import atexit, os, pathlib, sys, time
HERE, seen = pathlib.Path(__file__).parent, []
def gate(event, arguments):
    if event != "os.rename" or os.path.basename(os.fsdecode(arguments[1])) != "progress.pt": return
    seen.append(event)
    wait = HERE / "waits" / pathlib.Path(os.fsdecode(arguments[1])).parent.name
    if len(seen) == 2 and wait.exists() and not wait.read_text():
        wait.write_text("waits")
        while not sys.modules["pipeline.stopping"].requested(): time.sleep(0.05)
def say():
    hub, code = (sys.modules.get(name) for name in ("huggingface_hub.constants", "pipeline"))
    if hub: (HERE / "said" / str(os.getpid())).write_text(f"{hub.HF_HUB_OFFLINE} {code.__file__}")
if "SLURM_JOB_ID" in os.environ:
    sys.addaudithook(gate)
    atexit.register(say)
"""


@pytest.fixture
def write(tiny: Write) -> Write:
    """An experiment that saves after every step."""
    return partial(tiny, distill={"runtime": {"threads": 1, "save_seconds": 0}})


@pytest.fixture
def undisturbed(write: Write, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every cell of these tests, computed in one process, once; artifacts are the same in every folder."""
    root = tmp_path_factory.getbasetemp() / "undisturbed"
    if not root.exists():
        seeds = {"distill.seed": [0, 1, 2, 3, 4]}
        more = {"distill.seed": [0, 1], "evaluate.protocol": [FINETUNE]}
        fewer = {"distill.seed": [0, 2], "evaluate.initialisations": [1]}
        case = write(name="undisturbed", grids=[seeds, more, fewer])
        case.pipeline(
            "run", case.config, "--no-check", "--root", root.with_suffix(".making"), "--out", tmp_path / "tables"
        )
        root.with_suffix(".making").rename(root)
    return root


def prepared(case: Tiny, undisturbed: Path, *seeds: int) -> Tiny:
    """The case with stage 1 done, and the sets of some seeds."""
    shutil.copytree(undisturbed / "prepare", case.root / "prepare")
    for seed in seeds:
        (folder,) = undisturbed.glob(f"distill/*.seed{seed}-*")
        shutil.copytree(folder, case.root / "distill" / folder.name)
    return case


def watched(case: Tiny, waiting: Iterable[str] = ()) -> Path:
    """Jobs of the case say at their end what they saw; the distillations of ``waiting`` wait for a signal."""
    folder = case.folder / "gate"
    for name in ("waits", "said"):
        (folder / name).mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(GATE)
    for name in waiting:
        (folder / "waits" / name.partition("/")[2]).touch()
    case.environment["PYTHONPATH"] += f":{folder}"
    return folder


def status(case: Tiny, *words: object) -> dict[str, list[dict[str, Any]]]:
    """What ``status --json`` says: stage -> rows in the order of the grid."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(case.pipeline("status", case.config, "--json", *words))["cells"]:
        found.setdefault(row["stage"], []).append(row)
    return found


def names(case: Tiny, stage: str) -> list[str]:
    """Of a stage's cells, in the order of the grid."""
    return [row["name"] for row in status(case)[stage]]


def attempts(case: Tiny) -> dict[str, list[Attempt]]:
    """Name of a cell -> how often it was tried."""
    return {
        path.parent.relative_to(case.root).as_posix(): attempts_of(path.parent)
        for path in case.root.glob("*/*/attempts")
    }


def outcomes(case: Tiny, name: str) -> list[tuple[str | None, str | None]]:
    return [(attempt.outcome, attempt.reason) for attempt in attempts_of(case.root / name)]


def run(case: Tiny, *words: object, **options: Any) -> str:
    return case.pipeline("run", case.config, "--cluster", "slurm", "--no-check", *words, **options)


def submissions(case: Tiny, name: str = "tiny") -> list[Submission]:
    """The oldest first."""
    return list(all_of(case.logs, name))


def submitted(submission: Submission) -> list[str]:
    """The cells that a submission gave to jobs."""
    rows = [row for row in submission.rows.values() if row.job is not None]
    return [cell for row in rows for element in row.elements for cell in element]


def assert_finished(case: Tiny, undisturbed: Path, cells: int) -> None:
    """So many cells have results, and all that is done equals what one process makes, to the last bit."""
    found, theirs = made(case.root), made(undisturbed)
    done = {name.rpartition("/")[0] for name in found if name.endswith("done.json")}
    assert sum(folder.startswith("evaluate/") for folder in done) == cells
    assert {name for name in found if name.rpartition("/")[0] in done and theirs.get(name) != found[name]} == set()


def assert_no_traceback(submission: Submission) -> None:
    """Jobs that were stopped as planned say so in a line of submitit's log."""
    said = "".join(path.read_text() for path in submission.folder.glob("jobs/distill-*/*.err"))
    assert "; what was done is saved" in said
    assert "Traceback" not in said


def test_four_stages(write: Write, slurm: Slurm, undisturbed: Path) -> None:
    case = write(
        {"slurm": {"distill": {"at_once": 1}}}, grids=[{"distill.seed": [0, 1], "evaluate.protocol": [DDAL, FINETUNE]}]
    )
    folder = watched(case)
    case.environment["HF_HUB_OFFLINE"] = "0"
    said = case.pipeline("run", case.config, "--cluster", "slurm")
    assert "distill-0: 2 cells in 2 jobs" in said
    waiting = status(case)
    assert {row["state"] for row in waiting["distill"] + waiting["evaluate"]} <= {"pending", "running"}
    assert "waits for its distill cell" in {row["why"] for row in waiting["evaluate"]}
    slurm.wait_gone()
    assert_finished(case, undisturbed, cells=4)

    tried = attempts(case)
    assert [len(of_cell) for of_cell in tried.values()] == [1] * 7
    one, other = sorted((tried[name][0] for name in names(case, "distill")), key=lambda attempt: attempt.began)
    assert one.ended is not None
    assert other.ended is not None
    assert one.ended <= other.began  # at_once: 1
    for name in names(case, "evaluate")[:2]:
        assert one.ended <= tried[name][0].began < other.ended  # at once, not after all of its stage
    found = status(case)
    assert {row["state"] for rows in found.values() for row in rows} == {"done"}
    for row in found["distill"] + found["evaluate"]:
        (attempt,) = tried[row["name"]]
        assert (row["job"], row["log"], row["node"]) == (attempt.job, attempt.log, attempt.host)
        assert slurm.state(row["job"]) == "COMPLETED"
        assert row["job"] in slurm.states(row["job"].partition("_")[0])
        assert Path(row["log"]).parent == case.logs / "tiny" / row["stage"]
        assert "\r" not in Path(row["log"]).read_text()
        assert row["name"].partition("/")[2] in Path(row["log"]).read_text()
    (submission,) = submissions(case)
    seen = {path.read_text() for path in (folder / "said").iterdir()}
    assert seen == {f"True {submission.folder}/code/pipeline/__init__.py"}  # offline, by the copy of the code

    case.pipeline("run", case.config, "--root", undisturbed, "--out", case.folder / "debug")
    tables = made(case.root, case.folder / "debug")
    assert tables == made(case.root, case.folder / "analysis/results")
    assert {row[2] for row in tables["tiny.csv"]} == {"row", "HL", "HL, fine-tuned"}


def test_a_cell_that_fails(write: Write, slurm: Slurm, undisturbed: Path) -> None:
    case = prepared(write({"attempts": 2}, grids=[{"distill.seed": [0]}, TOO_LONG]), undisturbed)
    run(case)
    slurm.wait_gone()  # what waits for the failed cell was swept away, and the tables' job ran
    assert_finished(case, undisturbed, cells=1)
    table = (case.folder / "analysis/results/tiny.table2.md").read_text()
    assert "Without results (1):" in table
    found = status(case)
    (good, bad), (_, bad_child) = found["distill"], found["evaluate"]
    assert [row["state"] for rows in (found["distill"], found["evaluate"]) for row in rows] == ["done", "failed"] * 2
    assert bad["reason"] == "InputError"
    assert "sequence_length: 41 is more than the 40 usable positions" in bad["why"]
    assert "sequence_length: 41 is more than the 40 usable positions" in Path(bad["log"]).read_text()
    assert slurm.state(bad["job"]) == "FAILED"
    assert (bad_child["reason"], bad_child["why"]) == ("source failed", "its distill cell failed")

    run(case)
    (again,) = {row.job for row in submissions(case)[1].rows.values() if row.stage == "distill"}
    slurm.wait_state(f"{again}", "FAILED")
    assert sorted(submitted(submissions(case)[1])) == [bad["name"], bad_child["name"]]
    assert len({attempt.log for attempt in attempts_of(case.root / bad["name"])}) == 2
    said = run(case)
    assert f"left alone: {bad['name']}: failed 2 times in the same way: sequence_length: 41" in said
    assert len(submissions(case)) == 2

    case.pipeline("retry", case.config, "--cluster", "slurm")
    assert sorted(submitted(submissions(case)[2])) == [bad["name"], bad_child["name"]]
    assert len(attempts_of(case.root / good["name"])) == 1


def test_retry_leaves_what_is_merely_missing(write: Write, slurm: Slurm, undisturbed: Path) -> None:
    """Tables are of the whole grid all the while, with the paper's numbers beside ours, as by default."""
    grids = [{"distill.seed": [0, 1]}, TOO_LONG | {"distill.seed": [7]}]
    case = prepared(write(grids=grids, report={"table": "table2"}), undisturbed)
    run(case, "--only", "distill.seed=0,7")
    slurm.wait_gone()
    before = status(case)
    good, missing, bad = (row["name"] for row in before["distill"])
    states = [[row["state"] for row in before[stage]] for stage in ("distill", "evaluate")]
    assert states == [["done", "missing", "failed"]] * 2

    case.pipeline("retry", case.config, "--cluster", "slurm")
    slurm.wait_gone()
    assert sorted(submitted(submissions(case)[1])) == [bad, before["evaluate"][2]["name"]]
    after = status(case)
    assert [[row["state"] for row in after[stage]] for stage in ("distill", "evaluate")] == states
    tried = {name: len(of_cell) for name, of_cell in attempts(case).items()}
    assert (tried[good], tried.get(missing), tried[bad]) == (1, None, 2)
    assert_finished(case, undisturbed, cells=1)
    ended = {line.name: line.state for line in slurm.queue(everything=True).values()}
    assert [ended[one.job_name("aggregate")] for one in submissions(case)] == ["COMPLETED"] * 2
    assert "Without results (2):" in (case.folder / "analysis/results/tiny.table2.md").read_text()


def test_disturbed(write: Write, slurm: Slurm, undisturbed: Path) -> None:
    """A time limit, a pre-emption, a requeue from outside, a node that fails, a cancellation: one cell each."""
    rules = [
        {"where": {"distill.seed": 0}, "distill": {"minutes": 3}},  # SLURM may warn a minute too early
        {"where": {"distill.seed": 1}, "distill": {"partition": "scavenge", "options": {"nodelist": "n2"}}},
    ]
    case = write(
        {"cells": rules, "slurm": {"distill": {"options": {"nodelist": "n1"}}}},
        grids=[{"distill.seed": [0, 1, 2, 3, 4]}],
    )
    prepared(case, undisturbed)
    gate = watched(case, names(case, "distill"))
    run(case)
    slurm.wait_for(lambda: all(path.read_text() for path in (gate / "waits").iterdir()), what="five that wait")
    cells = status(case)["distill"]
    assert {(row["state"], row["progress"]) for row in cells[1:]} == {("running", 2)}  # the first may be over
    late, cheap, moved, hit, unwanted = (row["job"] for row in cells)

    taker = slurm.preempt("n2", wait=False)
    slurm.run("scontrol", "requeue", moved)
    slurm.cancel(unwanted)
    slurm.wait_for(lambda: slurm.restarts(moved) == 1, what="the requeue from outside")
    slurm.wait_for(lambda: slurm.restarts(cheap) == 1, what="the requeue of what was pre-empted")
    slurm.wait_state(unwanted, "CANCELLED")
    slurm.wait_for(lambda: slurm.restarts(late) > 0, what="the requeue ahead of the time limit")
    slurm.wait_gone(taker)
    for job in (cheap, moved, late):
        slurm.start_now(job)
        slurm.wait_state(job, "COMPLETED")
    with slurm.node_down("n1"):
        slurm.wait_for(lambda: slurm.restarts(hit) == 1, what="the requeue from a node that failed")
    slurm.wait_gone()  # no start_now: the processes on the node that failed live on for a few seconds

    assert slurm.restarts(unwanted) == 0
    *stopped, done = outcomes(case, cells[0]["name"])
    assert set(stopped) == {("stopped", "signal SIGUSR2")}  # once or, on a slow machine, more often
    assert done == ("done", None)
    for row in cells[1:4]:
        assert outcomes(case, row["name"]) == [("stopped", "signal SIGTERM"), ("done", None)]
    assert outcomes(case, cells[4]["name"]) == [("stopped", "signal SIGTERM")]
    assert_finished(case, undisturbed, cells=4)
    row, child = (rows[4] for rows in (status(case)["distill"], status(case)["evaluate"]))
    assert (row["state"], row["reason"], row["job"]) == ("failed", "cancelled", unwanted)
    assert (child["state"], child["reason"]) == ("failed", "source failed")
    assert_no_traceback(submissions(case)[0])
    run(case)
    slurm.wait_gone()
    assert submitted(submissions(case)[1]) == [row["name"], child["name"]]
    assert_finished(case, undisturbed, cells=5)


def test_a_second_run_submits_what_is_missing(write: Write, slurm: Slurm, undisturbed: Path) -> None:
    """One set done, one that fails, one in the queue; the second run is of another experiment with the same sets."""
    held = {"where": {"distill.seed": 2}, "distill": {"options": {"hold": True}}}
    case = prepared(write({"cells": [held]}, grids=[{"distill.seed": [0, 2]}, TOO_LONG]), undisturbed, 0)
    run(case)
    (first,) = submissions(case)
    _, waiting, failing = names(case, "distill")
    (row,) = (row for row in first.rows.values() if (failing,) in row.elements)
    slurm.wait_state(f"{row.job}", "FAILED")
    again = ("--set", "evaluate.initialisations=1")
    said = run(case, *again)
    assert "distill: 1 done, distill: 1 in the queue" in said
    (name,) = (path.name for path in case.logs.iterdir() if path.name.startswith("tiny.set-"))
    (second,) = submissions(case, name)
    assert [cell for cell in submitted(second) if cell.startswith("distill/")] == [failing]
    (parent,) = (row.job for row in first.rows.values() if (waiting,) in row.elements)
    assert {row.mirrors for row in second.rows.values() if row.stage == "evaluate"} == {None, parent, "distill-0"}
    assert "nothing to submit" not in run(case, *again, "--dry-run")

    slurm.run("scontrol", "release", parent)
    slurm.wait_gone()
    assert_finished(case, undisturbed, cells=4)
    tried = {name: len(of_cell) for name, of_cell in attempts(case).items() if not name.startswith("prepare/")}
    assert tried.pop(failing) == 2
    assert set(tried.values()) == {1}
    assert len(tried) == 2 + 4
    assert all("| HL |" in path.read_text() for path in (case.folder / "analysis/results").glob("*.table2.md"))


def test_submitters_that_are_killed_and_that_meet(write: Write, slurm: Slurm, undisturbed: Path) -> None:
    """One is killed at its first answer from sbatch; then there are two at once; then the tables' job is lost."""
    rule = {"where": {"distill.seed": 1}, "distill": {"memory_gb": 2}}  # an array of its own
    case = prepared(write({"cells": [rule]}, grids=[{"distill.seed": [0, 1]}]), undisturbed)
    script = case.folder / "bin" / "sbatch"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nsleep 0.3\n{shutil.which("sbatch")} "$@"\n[ -z "$KILL" ] || kill -9 $PPID\n')
    script.chmod(0o755)
    slow = case.environment | {"PATH": f"{script.parent}:{slurm.environment['PATH']}"}
    run(replace(case, environment=slow | {"KILL": "yes"}), status=-signal.SIGKILL)
    assert len(slurm.queue()) == 1
    assert submitted(submissions(case)[0]) == []
    command = ("run", case.config, "--cluster", "slurm", "--no-check")
    pair = [replace(case, environment=slow).start(*command) for _ in range(2)]
    said = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    lost = [line.job for line in slurm.queue().values() if line.name.endswith(".aggregate")]
    assert len(lost) == 1
    slurm.cancel(*lost)
    run(case)
    slurm.wait_gone()
    assert_finished(case, undisturbed, cells=2)
    assert [len(of_cell) for of_cell in attempts(case).values()] == [1] * 5
    assert sum(map(len, map(submitted, submissions(case)))) == 4
    assert "| HL |" in (case.folder / "analysis/results/tiny.table2.md").read_text()


def test_a_queue_with_limits(write: Write, slurm: Slurm, undisturbed: Path) -> None:
    """Arrays of two at most, and five jobs: with accounting the sixth is refused, without it sbatch waits for room."""
    case = prepared(write(grids=[{"distill.seed": [0, 1, 2]}]), undisturbed)
    lines = ("AccountingStorageEnforce=limits",) if slurm.accounting else ("MaxJobCount=6", "MinJobAge=2")
    with running("db" if slurm.accounting else "none", "MaxArraySize=2", *lines) as other:
        case.environment.update(other.environment)
        if slurm.accounting:
            other.run("sacctmgr", "--immediate", "modify", "user", getpass.getuser(), "set", "MaxSubmitJobs=5")
            process = case.start("run", case.config, "--cluster", "slurm", "--no-check")
            said = process.communicate()[1].splitlines()
            assert process.returncode == 2
            assert said[-1].startswith(
                "error: SLURM refused evaluate-1: AssocMaxSubmitJobLimit; Batch job submission failed"
            )
            assert "; submitted and left to run: distill-0 (job " in said[-1]
            assert "; not submitted: evaluate-1, sweep, aggregate; make fewer jobs of it (cells_per_job" in said[-1]
            assert said[-1].endswith("run again: what was submitted is not submitted twice")
            other.wait_gone()
        run(case)
        other.wait_gone()
    sizes = [len(row.elements) for row in submissions(case)[0].rows.values()]
    assert sizes == [2, 1, 2, 1]
    assert_finished(case, undisturbed, cells=3)
    assert {len(of_cell) for of_cell in attempts(case).values()} == {1}
    assert (case.folder / "analysis/results/tiny.table2.md").exists()


def test_side_by_side_by_the_code_of_then(write: Write, slurm: Slurm, undisturbed: Path) -> None:
    """From Python; two cells share a job; the source tree breaks before it starts, and a signal stops both."""
    together = {"cells_per_job": 2, "cells_per_gpu": 2}
    case = write(
        {"slurm": {"distill": together | {"options": {"hold": True}}, "evaluate": together}},
        grids=[{"distill.seed": [0, 1]}],
    )
    prepared(case, undisturbed)
    gate = watched(case, names(case, "distill"))
    tree = case.folder / "tree"
    shutil.copytree(REPOSITORY / "pipeline", tree / "pipeline")
    case.environment["PYTHONPATH"] = case.environment["PYTHONPATH"].replace(str(REPOSITORY), str(tree))
    words = f"from pipeline.launch import submit; print(*(job.job_id for job in submit({str(case.config)!r})))"
    environment = {**os.environ, **case.environment}
    job, child, *_ = slurm.run(sys.executable, "-c", words, cwd=case.folder, env=environment).split()
    assert slurm.queue(job)[job].reason == "JobHeldUser"
    for path in tree.rglob("*.py"):
        path.write_text("raise SystemExit('broken')")
    slurm.run("scontrol", "release", job)
    slurm.wait_for(lambda: all(path.read_text() for path in (gate / "waits").iterdir()), what="both that wait")
    slurm.run("scancel", "--signal=USR1", job)
    slurm.wait_for(lambda: slurm.restarts(job) == 1, what="the requeue")
    assert slurm.state(child) == "PENDING"
    slurm.start_now(job)
    slurm.wait_gone()
    case.environment["PYTHONPATH"] = str(REPOSITORY)
    for name in names(case, "distill"):
        assert [outcome for outcome, _ in outcomes(case, name)] == ["stopped", "done"]
    assert_finished(case, undisturbed, cells=2)
    assert_no_traceback(submissions(case)[0])
    tried = attempts(case)
    assert {attempt.job for name in names(case, "evaluate") for attempt in tried[name]} == {child}


def test_cancel_only_ours(write: Write, slurm: Slurm, undisturbed: Path) -> None:
    """Not an experiment whose name begins like ours, nor one of the same name in another folder."""
    held = {"slurm": {"all": {"options": {"hold": True}}}}
    ours = prepared(write(held, grids=[{"distill.seed": [0, 1]}]), undisturbed)
    run(ours)
    mine = set(slurm.queue())
    assert len(mine) == 2 + 2 + 2
    longer = replace(ours, config=write(held, grids=[{"distill.seed": [2]}], name="tiny.more").config)
    run(longer)
    elsewhere = ours.folder / "elsewhere.yaml"
    elsewhere.write_text(ours.cluster.read_text().replace(str(ours.logs), f"{ours.logs}-elsewhere"))
    run(ours, "--cluster-file", elsewhere, "--root", ours.folder / "elsewhere")
    foreign = slurm.sbatch("sleep 100", "--hold", "--job-name=textdd")
    others = set(slurm.queue()) - mine
    assert len(others) == 4 + 6 + 1
    assert ours.pipeline("cancel", ours.config) == "tiny: 6 jobs cancelled\n"
    slurm.wait_gone(*mine)
    assert set(slurm.queue()) == others
    assert foreign in others
    assert {row["state"] for row in status(longer)["distill"]} == {"pending"}
    found = status(ours)
    assert {row["reason"] for row in found["distill"] + found["evaluate"]} <= {"cancelled", "source failed", None}
    assert not {row["state"] for row in found["distill"] + found["evaluate"]} & {"pending", "running"}
