"""Plain sbatch, typed as the scripts' own headers say, in a copy of the repository whose owner edited two files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import load
from pipeline.launch.stages import stage_configs
from pipeline.store import Cell, Store
from tests.slurm.conftest import REPOSITORY, made
from tests.slurm.rig import Slurm

DDAL = {"name": "ddal", "sequence_length": 8, "learning_rate": 0.1, "outer": {"steps": 3, "batch_size": 8}}
SMALL = {"gpus": 1, "cpus": 1, "memory_gb": 2, "minutes": 5}
# Python starts this file by itself. It holds a process at a save until a signal comes: once for every file in waits/,
# whose name is the stage, the element and which save of the process it is.
GATE = """
import os, pathlib, sys, time
FOLDER, seen = pathlib.Path(__file__).parent / "waits", []
def gate(event, arguments):
    if event != "os.rename" or not str(arguments[1]).endswith(("/progress.pt", "/results.csv")): return
    seen.append(arguments)
    ours = f"{os.environ['TEXTDD_STAGE']}.{os.environ.get('SLURM_ARRAY_TASK_ID')}."
    waits = sorted(path for path in FOLDER.iterdir() if path.name.startswith(ours) and not path.read_text())
    if waits and len(seen) == int(waits[0].name[len(ours)]):
        waits[0].write_text("waits")
        while not sys.modules["pipeline.stopping"].requested(): time.sleep(0.05)
if "TEXTDD_STAGE" in os.environ: sys.addaudithook(gate)
"""


@dataclass(frozen=True)
class Clone:
    """A copy of the repository, and what its owner types in it."""

    slurm: Slurm
    folder: Path

    def type(self, line: str, status: int = 0, where: str = ".") -> str:
        """A line of shell; what it said."""
        done = subprocess.run(["bash", "-c", line], **self._options(where))
        assert done.returncode == status, f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"
        return str(done.stdout + done.stderr)

    def start(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(["bash", "-c", line], **self._options("."))

    def submit(self, line: str, where: str = ".") -> str:
        """The number of the job that a line submits."""
        found = re.search(r"^Submitted batch job (\d+)$", said := self.type(line, where=where), re.MULTILINE)
        assert found, said
        return found[1]

    def array(self, stage: str, *options: str) -> str:
        """The line of a script's header, for ``tiny.yaml``."""
        return self.submit(self._line(stage, *options))

    def refused(self, stage: str) -> str:
        """Why that line submits nothing."""
        before = self._jobs()
        first, *others = self.type(self._line(stage), status=1).splitlines()
        assert others == ["sbatch: error: Batch job submission failed: Invalid job array specification"]
        assert self._jobs() <= before, "a job of another test may have left the queue, none may have come"
        assert first.startswith("error: tiny: ")
        return first.removeprefix("error: tiny: ")

    def _jobs(self) -> set[str]:
        return {identifier.partition("_")[0] for identifier in self.slurm.queue(everything=True)}

    def _line(self, stage: str, *options: str) -> str:
        words = f"--array=$(python -m pipeline array tiny.yaml {stage}) {' '.join(options)}"
        return f"sbatch {words} sbatch/{ {'distill': 2, 'evaluate': 3}[stage] }_{stage}.sbatch tiny.yaml"

    def log(self, job: str) -> str:
        """What a job or element has said."""
        (file,) = self.folder.glob(f"logs/slurm/*-{job}.out")
        return file.read_text()

    def cells(self, stage: Any, root: str = "checkpoints", config: str = "tiny.yaml") -> list[Cell]:
        """The artifacts by position in the grid."""
        store = Store(self.folder / root)
        return [store.cell(stage_configs(cell, stage)[-1]) for cell in load(self.folder / config).cells]

    def made(self, root: str = "checkpoints", out: str | None = "analysis/results") -> dict[str, Any]:
        return made(self.folder / root, None if out is None else self.folder / out)

    def _options(self, where: str) -> dict[str, Any]:
        """A login shell's: it has the environment active, and knows nothing of what env.sh sets in jobs."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TEXTDD_", "HF_"))}
        path = f"{Path(sys.executable).parent}:{self.slurm.environment['PATH']}"
        environment = kept | self.slurm.environment | {"PATH": path, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return {"cwd": self.folder / where, "env": environment, **pipes}


Make = Callable[..., Clone]


@pytest.fixture(scope="module")
def make(slurm: Slurm, encoder_folder: Callable[[str], Path], corpus_file: Path) -> Make:
    """Copies the repository to a folder; ``cluster`` are stages of its ``cluster.yaml``, ``grids`` its experiment."""
    task = {"name": "keywords", "source": {"kind": "files", "train": str(corpus_file)}, "text": ["text"]}
    prepare = {"task": task, "model": str(encoder_folder("bert")), "dev": 40, "test": 40}

    def make(
        folder: Path, grids: list[Mapping[str, Any]], report: Any = None, cells: Any = (), **more: Mapping[str, Any]
    ) -> Clone:
        shutil.copytree(REPOSITORY / "pipeline", folder / "pipeline")
        (folder / "sbatch").mkdir()
        # a virtual environment, as the file's first lines suggest
        env = f'{(REPOSITORY / "sbatch/env.sh").read_text()}\nexport PATH={Path(sys.executable).parent}:"$PATH"\n'
        (folder / "sbatch" / "env.sh").write_text(env)
        (folder / "configs").mkdir()
        stages = {name: SMALL | dict(more.get(name, {})) for name in ("prepare", "distill", "evaluate")}
        stages["aggregate"] = {"memory_gb": 2, "cpus": 1, "minutes": 5}
        (folder / "configs" / "cluster.yaml").write_text(yaml.safe_dump({"slurm": stages, "cells": list(cells)}))
        one = {"runtime": {"threads": 1, "save_seconds": 0}}
        validation = {"every": 2, "initialisations": 2}
        base = {
            "prepare": prepare,
            "distill": {"method": DDAL | {"validation": validation}, **one},
            "evaluate": {"protocol": {"name": "ddal"}, "initialisations": 3, "runtime": {"threads": 1}},
        }
        whole = {"base": base, "grids": grids, "report": report or {"paper": False}}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(whole))
        clone = Clone(slurm, folder)
        clone.type("python -m pipeline sbatch")
        return clone

    return make


@pytest.fixture(scope="module")
def prepared(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage 1; artifacts are the same in every folder."""
    clone = make(tmp_path_factory.mktemp("prepared"), [{}])
    clone.type("python -m pipeline.stage1_prepare tiny.yaml")
    return clone.folder / "checkpoints"


# the four stages


def quickstart_grids() -> list[dict[str, Any]]:
    """Those of configs/quickstart.yaml, with one draw of each set of real sentences."""
    grids: list[dict[str, Any]] = yaml.safe_load((REPOSITORY / "configs" / "quickstart.yaml").read_text())["grids"]
    (real,) = (grid for grid in grids if "seeds" in grid)
    real["seeds"] = 1
    return grids


def test_the_quickstarts_shape(make: Make, slurm: Slurm, tmp_path: Path) -> None:
    clone = make(tmp_path, quickstart_grids(), {"table": "table2", "paper": False}, distill={"at_once": 2})
    positions = len(load(tmp_path / "tiny.yaml").cells)
    debug = clone.start("python -m pipeline run tiny.yaml --cluster debug --no-check --root debug --out debug-results")
    job = clone.submit("sbatch sbatch/1_prepare.sbatch tiny.yaml")
    slurm.wait_gone(job)
    assert slurm.states(job) == {job: "COMPLETED"}, clone.log(job)

    job, most = clone.array("distill"), 0
    while queue := slurm.queue(job):
        most = max(most, sum(line.state == "RUNNING" for line in queue.values()))
        time.sleep(0.2)
    assert slurm.states(job) == {f"{job}_{index}": "COMPLETED" for index in range(positions)}
    assert most == 2
    assert clone.refused("distill") == f"nothing is left of distill: 0 left, {positions} done, 0 running, 0 given up"

    job = clone.array("evaluate")
    slurm.wait_gone(job)
    assert set(slurm.states(job).values()) == {"COMPLETED"}
    job = clone.submit("sbatch sbatch/4_aggregate.sbatch tiny.yaml")
    slurm.wait_gone(job)
    assert slurm.states(job) == {job: "COMPLETED"}, clone.log(job)

    assert "| SL + AL |" in clone.log(job)
    _, said = debug.communicate()
    assert debug.returncode == 0, said
    assert clone.made() == clone.made("debug", "debug-results")


def test_the_lines_of_the_readme_can_be_pasted_together(make: Make, slurm: Slurm, tmp_path: Path) -> None:
    """Also where some of it is done: a stage of which nothing is left keeps the next one from nothing."""
    clone = make(tmp_path, [{"distill.seed": [0, 1]}], distill={"at_once": 1})
    text = (REPOSITORY / "sbatch" / "README.md").read_text()
    (lines,) = re.findall(r"^```\n(prepare=.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "lines.sh").write_text(lines.replace("CONFIG", "tiny.yaml"))
    job = clone.submit("bash -e lines.sh")
    slurm.wait_gone()
    jobs = [f"{int(job) - before}" for before in range(4)]  # the last stage's, and those before it
    ended = [slurm.states(one) for one in jobs]
    assert {state for states in ended for state in states.values()} == {"COMPLETED"}
    assert [len(states) for states in ended] == [1, 2, 2, 1]
    assert [cell.state for stage in ("distill", "evaluate") for cell in clone.cells(stage)] == ["done"] * 4
    shutil.rmtree(clone.cells("evaluate")[1].folder)
    job = clone.submit("bash lines.sh")
    slurm.wait_gone()
    assert slurm.state(job) == "COMPLETED"
    assert clone.cells("evaluate")[1].state == "done"


def test_cancel_names_a_job_at_a_cell_which_says_that_its_gpus_are_unused(
    make: Make, prepared: Path, slurm: Slurm, tmp_path: Path
) -> None:
    """The pretended GPUs are none that torch sees."""
    clone = make(tmp_path, [{}])
    shutil.copytree(prepared, tmp_path / "checkpoints")
    (tmp_path / "gate" / "waits").mkdir(parents=True)
    (tmp_path / "gate" / "sitecustomize.py").write_text(GATE)
    (tmp_path / "gate" / "waits" / "distill.0.1").touch()
    with open(tmp_path / "sbatch" / "env.sh", "a") as env:
        print("export PYTHONPATH=$PWD/gate", file=env)
    job = f"{clone.array('distill')}_0"
    slurm.wait_for((tmp_path / "gate" / "waits" / "distill.0.1").read_text, what="the first save")
    assert "warning: GPUs were given (SLURM_JOB_GPUS=" in clone.log(job)
    assert "on the CPU: torch sees none of its GPUs" in clone.type("COLUMNS=250 python -m pipeline status tiny.yaml")
    said = clone.type("python -m pipeline cancel tiny.yaml").strip()
    assert said.startswith("tiny: 0 jobs cancelled\n  jobs that run did not submit are at its cells")
    assert said.endswith(f"; type: scancel {job}")
    clone.type(said.rpartition("type: ")[2])
    slurm.wait_state(job, "CANCELLED")


# what happens to jobs


@dataclass(frozen=True)
class Disturbed:
    """An array of which every element met something else, and the same grid where nothing happened.

    Attributes:
        clone: artifacts in ``checkpoints``; in ``debug`` those of an undisturbed run.
        jobs: by the name of what happened, the job that it happened to.
        said: by ``array``, before each submission.
        states: of the queue, at the end.

    """

    clone: Clone
    jobs: dict[str, str]
    said: list[str]
    states: dict[str, str]

    def outcomes(self, index: int, stage: str = "distill") -> list[str | None]:
        """How the attempts at one position ended."""
        cell = self.clone.cells(stage)[index]
        return [attempt.reason or attempt.outcome for attempt in cell.attempts()]

    def equal(self, index: int, stage: str = "distill") -> bool:
        """Whether a position is finished as in the undisturbed run."""
        name = f"{stage}/{self.clone.cells(stage)[index].folder.name}"
        ours, theirs = (
            {k: v for k, v in self.clone.made(root).items() if name in k} for root in ("checkpoints", "debug")
        )
        return f"{name}/done.json" in ours and ours == theirs


LIMIT, OUTSIDE, PREEMPTED, CANCELLED, KILLED, FAILS = range(6)


@pytest.fixture(scope="module")
def disturbed(make: Make, prepared: Path, slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """All at the same time, because most of it is waiting."""
    folder = tmp_path_factory.mktemp("disturbed")
    learned = {"labels": "unrestricted", "attention_labels": "cls"}
    grids = [
        {"distill.method": [learned], "distill.seed": [LIMIT, OUTSIDE, PREEMPTED, CANCELLED, KILLED]},
        {"distill.method": [{"sequence_length": 41}]},
    ]
    short = {"where": {"distill.seed": LIMIT}, "distill": {"minutes": 3}}  # SLURM may warn a minute too early
    clone = make(folder, grids, cells=[short])
    for root in ("checkpoints", "debug"):
        shutil.copytree(prepared, folder / root)
    (folder / "gate" / "waits").mkdir(parents=True)
    (folder / "gate" / "sitecustomize.py").write_text(GATE)
    with open(folder / "sbatch" / "env.sh", "a") as env:
        print("export PYTHONPATH=$PWD/gate", file=env)
    once = [f"distill.{OUTSIDE}.1", f"distill.{PREEMPTED}.1", f"distill.{CANCELLED}.1", f"distill.{KILLED}.2"]
    later = f"evaluate.{OUTSIDE}.2"  # the first time, there is nothing in the file yet
    for name in (*once, later, f"distill.{LIMIT}.1 first", f"distill.{LIMIT}.1 second"):
        (folder / "gate" / "waits" / name).touch()

    def reached(*names: str) -> bool:
        return all((folder / "gate" / "waits" / name).read_text() for name in names)

    def ended(*numbers: str) -> None:
        slurm.wait_gone(*numbers)
        for number in numbers:  # the controller forgets them after five minutes
            states.update(slurm.states(number))

    jobs, states, script = {}, {}, "sbatch/2_distill.sbatch tiny.yaml"
    typed = [clone.type("python -m pipeline array tiny.yaml distill")]
    line = typed[0].partition("script gives: ")[2].splitlines()[0].replace("CONFIG", "tiny.yaml")
    jobs["limit"] = clone.submit(line.replace("sbatch", "sbatch --nodelist=n2", 1))
    jobs["array"] = clone.submit(f"sbatch --nodelist=n2 --array={OUTSIDE},{CANCELLED}-{FAILS} {script}")
    jobs["preempted"] = clone.submit(f"sbatch --nodelist=n1 --partition=scavenge --array={PREEMPTED} {script}")
    slurm.wait_for(lambda: reached(*once), what="the first saves")
    slurm.run("scontrol", "requeue", f"{jobs['array']}_{OUTSIDE}")
    slurm.run("scancel", f"{jobs['array']}_{CANCELLED}")
    slurm.preempt("n1", wait=False)
    os.kill(clone.cells("distill")[KILLED].attempts()[0].pid, signal.SIGKILL)
    slurm.wait_state(f"{jobs['array']}_{KILLED}", "FAILED")
    slurm.run("scontrol", "requeue", f"{jobs['array']}_{KILLED}")
    ended(jobs["array"], jobs["preempted"])
    typed.append(clone.type("python -m pipeline array tiny.yaml distill"))
    jobs["again"] = clone.submit(f"sbatch --array={typed[1].splitlines()[0]} {script}")
    ended(jobs["again"])

    debug = clone.start("python -m pipeline run tiny.yaml --no-check --root debug --out debug-results")
    jobs["evaluate"] = clone.submit(f"sbatch --array={OUTSIDE}-{KILLED} sbatch/3_evaluate.sbatch tiny.yaml")
    slurm.wait_for(lambda: reached(later), what="the first initialisation")
    slurm.run("scontrol", "requeue", f"{jobs['evaluate']}_{OUTSIDE}")
    ended(jobs["limit"], jobs["evaluate"])
    typed.append(clone.type("python -m pipeline array tiny.yaml evaluate"))
    jobs["last"] = clone.array("evaluate")
    ended(jobs["last"])
    debug.communicate()
    assert debug.returncode == 1  # one fails
    clone.type("python -m pipeline.stage4_aggregate tiny.yaml")
    return Disturbed(clone, jobs, typed, states)


def test_a_cell_over_its_time_limit_goes_on_in_the_next_slots(disturbed: Disturbed, slurm: Slurm) -> None:
    assert disturbed.outcomes(LIMIT)[-3:] == ["signal SIGUSR2", "signal SIGUSR2", "done"]
    assert disturbed.states[f"{disturbed.jobs['limit']}_{LIMIT}"] == "COMPLETED"
    assert disturbed.equal(LIMIT)


def test_a_cell_that_is_requeued_from_outside(disturbed: Disturbed, slurm: Slurm) -> None:
    assert disturbed.outcomes(OUTSIDE) == ["signal SIGTERM", "done"]
    assert disturbed.states[f"{disturbed.jobs['array']}_{OUTSIDE}"] == "COMPLETED"
    assert disturbed.equal(OUTSIDE)


def test_an_evaluation_that_is_requeued_from_outside(disturbed: Disturbed, slurm: Slurm) -> None:
    assert disturbed.outcomes(OUTSIDE, "evaluate") == ["signal SIGTERM", "done"]
    assert all(disturbed.equal(index, "evaluate") for index in (LIMIT, OUTSIDE, PREEMPTED, CANCELLED, KILLED))


def test_a_cell_that_is_preempted(disturbed: Disturbed, slurm: Slurm) -> None:
    assert disturbed.outcomes(PREEMPTED) == ["signal SIGTERM", "done"]
    assert disturbed.states[f"{disturbed.jobs['preempted']}_{PREEMPTED}"] == "COMPLETED"
    assert disturbed.equal(PREEMPTED)


def test_a_cell_that_is_cancelled_stays_so_until_it_is_submitted_again(disturbed: Disturbed, slurm: Slurm) -> None:
    assert disturbed.outcomes(CANCELLED) == ["signal SIGTERM", "done"]
    assert disturbed.states[f"{disturbed.jobs['array']}_{CANCELLED}"] == "CANCELLED"
    assert disturbed.states[f"{disturbed.jobs['again']}_{CANCELLED}"] == "COMPLETED"
    assert disturbed.equal(CANCELLED)


def test_a_cell_that_is_killed_fails_and_goes_on_when_it_is_requeued(disturbed: Disturbed, slurm: Slurm) -> None:
    assert disturbed.outcomes(KILLED) == ["killed", "done"]
    assert disturbed.states[f"{disturbed.jobs['array']}_{KILLED}"] == "COMPLETED"
    assert disturbed.equal(KILLED)


def test_a_cell_that_fails_leaves_the_others_alone(disturbed: Disturbed, slurm: Slurm) -> None:
    reason = "sequence_length: 41 is more than the 40 usable positions"
    for job in (disturbed.jobs["array"], disturbed.jobs["again"]):
        assert disturbed.states[f"{job}_{FAILS}"] == "FAILED"
        assert reason in disturbed.clone.log(f"{job}_{FAILS}")
    child = f"{disturbed.jobs['last']}_{FAILS}"
    assert disturbed.states[child] == "FAILED"
    assert f"which is failed; it failed: {reason}" in disturbed.clone.log(child)
    tables = [
        {k: v for k, v in disturbed.clone.made(root, out).items() if "/" not in k}
        for root, out in (("checkpoints", "analysis/results"), ("debug", "debug-results"))
    ]
    assert tables[0] == tables[1] != {}


def test_an_array_is_what_is_left(disturbed: Disturbed, slurm: Slurm) -> None:
    first, second, third = disturbed.said
    assert first.splitlines()[0] == "1-5%64"
    assert second.splitlines()[0] == f"{CANCELLED},{FAILS}%64"
    assert re.search(r"^tiny: distill: \d left, 3 done, \d running, 0 given up$", second, re.MULTILINE), second
    assert third == f"{LIMIT},{FAILS}%64\ntiny: evaluate: 2 left, 4 done, 0 running, 0 given up\n"


# what is refused


def test_code_that_was_edited_after_the_submission_does_not_run(
    make: Make, prepared: Path, slurm: Slurm, tmp_path: Path
) -> None:
    clone = make(tmp_path, [{"distill.method": [{"name": "random"}], "evaluate.protocol": [{"name": "finetune"}]}])
    shutil.copytree(prepared, tmp_path / "checkpoints")
    job = clone.array("distill", "--hold")
    with open(tmp_path / "pipeline" / "stage2_distill.py", "a") as code:
        print("# edited", file=code)
    slurm.run("scontrol", "release", f"{job}_0")
    assert slurm.wait_state(f"{job}_0", "FAILED", "COMPLETED") == "FAILED"
    assert "error: the code has changed since this job was submitted" in clone.log(f"{job}_0")
    accept = "python -m pipeline array tiny.yaml distill notes it, then scontrol requeue this job"
    assert accept in clone.log(f"{job}_0")
    assert clone.cells("distill")[0].state == "missing"
    clone.type("python -m pipeline array tiny.yaml distill && scontrol requeue " + f"{job}_0")
    slurm.start_now(f"{job}_0")
    assert slurm.wait_state(f"{job}_0", "FAILED", "COMPLETED") == "COMPLETED", clone.log(f"{job}_0")
    assert clone.cells("distill")[0].state == "done"


def test_scripts_that_are_not_what_the_cluster_says(make: Make, slurm: Slurm, tmp_path: Path) -> None:
    clone = make(tmp_path, [{}])
    assert clone.type("python -m pipeline sbatch --check") == ""
    cluster = tmp_path / "configs" / "cluster.yaml"
    cluster.write_text(cluster.read_text().replace("minutes: 5", "minutes: 6"))
    said = clone.type("python -m pipeline sbatch --check", status=1)
    names = "1_prepare.sbatch, 2_distill.sbatch, 3_evaluate.sbatch, 4_aggregate.sbatch"
    assert said == f"stale: {names}; type: python -m pipeline sbatch\n"
    clone.type("python -m pipeline sbatch && python -m pipeline sbatch --check")
    job = clone.submit("sbatch --hold sbatch/2_distill.sbatch tiny.yaml")
    assert "TimeLimit=00:06:00" in slurm.run("scontrol", "show", "job", job)


def test_a_grid_beyond_the_clusters_arrays_is_one_sentence_and_no_job(make: Make, slurm: Slurm, tmp_path: Path) -> None:
    clone = make(tmp_path, [{"distill.seed": list(range(1002))}])
    assert clone.refused("distill") == (
        "position 1001 of the grid is beyond this cluster's arrays (MaxArraySize 1001: up to 1000); "
        "python -m pipeline run tiny.yaml --cluster slurm splits them"
    )


def test_a_job_that_was_submitted_in_another_folder_says_so(make: Make, slurm: Slurm, tmp_path: Path) -> None:
    clone = make(tmp_path, [{}])
    (tmp_path / "other" / "logs" / "slurm").mkdir(parents=True)
    job = clone.submit("sbatch ../sbatch/1_prepare.sbatch ../tiny.yaml", where="other")
    assert slurm.wait_state(job, "FAILED", "COMPLETED") == "FAILED"
    (log,) = (tmp_path / "other").glob(f"logs/slurm/*-{job}.out")
    assert log.read_text() == f"no sbatch/env.sh in {tmp_path}/other: submit from the folder of the repository\n"
