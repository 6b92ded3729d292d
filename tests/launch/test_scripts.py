"""The plain scripts: byte for byte, beside submitit's own, and what their shell does with a signal; arrays to type."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline import __main__
from pipeline.__main__ import app
from pipeline.config import Cluster, Evaluate, Experiment, load_cluster
from pipeline.config.cluster import JOBS, JobName
from pipeline.config.typed import Typed
from pipeline.errors import InputError
from pipeline.launch.sbatch import array, compressed, left, render, stale, write
from pipeline.store import Store

GOLDEN = Path(__file__).parent / "golden"
REPOSITORY = Path(__file__).parents[2]
SCRIPTS = ["1_prepare.sbatch", "2_distill.sbatch", "3_evaluate.sbatch", "4_aggregate.sbatch"]


def cluster_of(**slurm: Any) -> Cluster:
    return Cluster.model_validate({"slurm": slurm})


# texts


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_byte_for_byte(name: str) -> None:
    """Rendered again by ``write(load_cluster(GOLDEN / "cluster.yaml"), GOLDEN)``, and read before it is committed."""
    assert render(load_cluster(GOLDEN / "cluster.yaml"))[name].encode() == (GOLDEN / name).read_bytes()


def test_the_scripts_of_the_repository_are_those_of_its_cluster() -> None:
    assert stale(load_cluster(REPOSITORY / "configs" / "cluster.yaml"), REPOSITORY / "sbatch") == []


def test_a_script_that_was_edited_or_is_missing_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cluster, folder = cluster_of(), tmp_path / "sbatch"
    folder.mkdir()
    (folder / "env.sh").write_text("mine\n")
    assert stale(cluster, folder) == SCRIPTS
    write(cluster, folder)
    assert (folder / "env.sh").read_text() == "mine\n"
    assert Path("logs/slurm").is_dir()
    assert stale(cluster, folder) == []
    (folder / SCRIPTS[3]).unlink()
    (folder / SCRIPTS[1]).write_text((folder / SCRIPTS[1]).read_text().replace("--time=720", "--time=721"))
    assert stale(cluster, folder) == [SCRIPTS[1], SCRIPTS[3]]
    assert stale(cluster_of(prepare={"minutes": 9}), folder) == [SCRIPTS[0], SCRIPTS[1], SCRIPTS[3]]


def test_what_renders_them_again_names_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my site.yaml").write_text("{}")
    done = CliRunner().invoke(app, ["sbatch", "--check", "--cluster-file", "my site.yaml"])
    assert done.exit_code == 1
    assert done.stderr.endswith("; type: python -m pipeline sbatch --cluster-file 'my site.yaml'\n")


def test_a_variable_that_slurm_would_not_replace_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRATCH", raising=False)
    with pytest.raises(InputError, match=r"logs: \$SCRATCH/logs: \$SCRATCH is not set here"):
        render(Cluster(logs="$SCRATCH/logs"))
    monkeypatch.setenv("SCRATCH", "/scratch")
    assert "#SBATCH --output=/scratch/logs/slurm/%x-%A_%a.out\n" in render(Cluster(logs="$SCRATCH/logs"))[SCRIPTS[1]]


def options_of(script: str) -> dict[str, str]:
    lines = [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH ")]
    return {name: value for name, _, value in (line.removeprefix("--").partition("=") for line in lines)}


RICH = load_cluster(GOLDEN / "cluster.yaml")
EVERYTHING = cluster_of(
    all={"account": "a", "partition": "p,q", "qos": "high", "constraint": "[a100*2&nvme]", "reservation": "r s"},
    distill={
        **{"nodes": 3, "tasks": 4, "gpus": 4, "gpu_type": "h100", "cpus": 7, "memory_gb": 0.3, "minutes": 1},
        **{"mail_user": "me@x", "mail_type": ["END"], "at_once": None},
        **{"options": {"exclusive": True, "mem-per-gpu": "3G", "comment": "it's", "wckey": "w", "nodelist": "n[1-2]"}},
    },
    evaluate={"gres": "gpu:1,tmp:5", "memory_gb": None, "minutes": None, "cpus": None},
)


@pytest.mark.parametrize("cluster", [Cluster(), RICH, EVERYTHING])
@pytest.mark.parametrize("job", JOBS)
def test_submitit_asks_for_the_same(cluster: Cluster, job: JobName) -> None:
    from submitit.slurm.slurm import _make_sbatch_string

    request = cluster.request(None, job)
    ours = options_of("\n".join(request.sbatch_lines("name", "x")))
    parameters = {"job_name": "name", **request.submitit_parameters()}
    script = _make_sbatch_string("true", folder="/f", map_count=5, **parameters)
    theirs = options_of(script)
    assert ours.pop("signal") == f"B:{theirs.pop('signal')}"
    if request.minutes is None:  # submitit cannot leave it out
        ours["time"] = "5"
    assert theirs.pop("array") == f"0-4%{min(5, request.at_once or 5)}"
    for name in ("output", "error"):
        theirs.pop(name)
    ours.pop("output")
    assert theirs == ours
    assert all(line in script.splitlines() for line in request.setup)


# what the shell does


class Job:
    """A rendered script, run by bash as SLURM would, with a stage, ``scontrol`` and ``srun`` that write down calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        for name in ("bin", "sbatch"):
            (folder / name).mkdir()
        self.environment = {
            **{"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), "SLURM_JOB_ID": "14"},
            **{"SLURM_SUBMIT_DIR": str(folder), "SLURM_CPUS_PER_TASK": "3"},
        }
        (folder / "sbatch" / "env.sh").write_text((REPOSITORY / "sbatch" / "env.sh").read_text())
        self.program("scontrol", 'echo "$@" >>scontrol.txt')
        self.stage("0")

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def stage(self, *statuses: str, listens: bool = True, first: str = "") -> None:
        """``python``: writes down what it was given; waits for signals, then ends with the status for the last one."""
        wait = "while [ -z $heard ]; do sleep 0.05; done; sleep 0.3; eval exit \\$$heard" if len(statuses) > 1 else ""
        named = dict(zip(("USR1", "USR2", "TERM"), statuses, strict=False)) if len(statuses) > 1 else {}
        lines = [
            *(f"{name}={status}" for name, status in named.items()),
            *([f"trap 'echo {name} >>heard.txt; heard={name}' {name}" for name in named] if listens else []),
            'printf "%s\\n" "$@" >arguments.txt',
            'echo "$TEXTDD_STAGE,$HF_HUB_OFFLINE,$OMP_NUM_THREADS,$TEXTDD_ROOT" >environment.txt',
            first,
            "touch ready",
            wait or f"exit {statuses[0]}",
        ]
        self.program("python", "\n".join(lines))

    def start(
        self, *arguments: str, script: str = SCRIPTS[1], cluster: Cluster | None = None, stdout: Any = None, **more: str
    ) -> Any:
        (self.folder / "script").write_text(render(cluster or Cluster())[script])
        process = subprocess.Popen(
            ["bash", "script", *arguments],
            cwd=self.folder,
            env=self.environment | more,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, **more: Any) -> tuple[int, str]:
        process = self.start(*arguments, **more)
        _, error = process.communicate(timeout=20)
        return process.returncode, error

    def signalled(self, *names: str, **more: Any) -> tuple[int, str]:
        """Starts it, sends signals to the shell alone once the stage is ready, and waits for the end."""
        process = self.start("CONFIG", **more)
        self.wait_for("ready")
        for name in names:
            process.send_signal(getattr(signal, f"SIG{name}"))
            time.sleep(0.1)
        _, error = process.communicate(timeout=20)
        return process.returncode, error

    def wait_for(self, name: str) -> None:
        end = time.monotonic() + 10
        while not (self.folder / name).exists():
            assert time.monotonic() < end, f"{name} never came"
            time.sleep(0.02)

    def read(self, name: str) -> list[str]:
        path = self.folder / f"{name}.txt"
        return path.read_text().splitlines() if path.exists() else []


SHORT = "its time is over before Python listens; give it more minutes"
ELEMENT = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    for process in job.started:  # a stage that waits for a signal would wait for ever
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_an_element_computes_its_position(job: Job) -> None:
    assert job.run("my config.yaml", "--set", "a=b c", **ELEMENT) == (0, "")
    assert job.read("arguments") == [
        *("-m", "pipeline.stage2_distill", "my config.yaml", "--set", "a=b c", "--index", "3")
    ]
    assert job.read("environment") == ["distill,1,3,"]
    assert job.read("scontrol") == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_job_without_an_array_computes_all(job: Job, script: str) -> None:
    assert job.run("CONFIG", script=script) == (0, "")
    stage = script.removesuffix(".sbatch")
    assert job.read("arguments") == ["-m", f"pipeline.stage{stage}", "CONFIG"]
    offline = "" if script == SCRIPTS[0] else "1"
    assert job.read("environment") == [f"{stage[2:]},{offline},3,"]


def test_aggregate_takes_no_index(job: Job) -> None:
    assert job.run("CONFIG", script=SCRIPTS[3], **ELEMENT) == (0, "")
    assert "--index" not in job.read("arguments")


def test_a_failure_is_the_jobs(job: Job) -> None:
    job.stage("1")
    assert job.run("CONFIG", **ELEMENT) == (1, "")
    assert job.read("scontrol") == ["--oneliner show job 12_3"]


@pytest.mark.parametrize("name", ["USR1", "USR2"])
def test_a_warning_reaches_python_and_requeues_the_element(job: Job, name: str) -> None:
    job.stage("85", "85", "143")
    assert job.signalled(name, **ELEMENT) == (85, "")
    assert job.read("heard") == [name]
    assert job.read("scontrol") == ["requeue 12_3"]


def test_a_plain_job_requeues_itself(job: Job) -> None:
    job.stage("85", "85", "143")
    assert job.signalled("USR2") == (85, "")
    assert job.read("scontrol") == ["requeue 14"]


def test_several_signals_are_all_handed_on(job: Job) -> None:
    job.stage("85", "85", "143")
    assert job.signalled("USR2", "USR2", "TERM", **ELEMENT)[0] == 143
    assert job.read("heard") == ["USR2", "USR2", "TERM"]


RUNNING = "JobId=16 ArrayJobId=12 JobState=RUNNING Reason=None PreemptEligibleTime=2026-11-20T11:18:52 PreemptTime="


@pytest.mark.parametrize(
    ("facts", "requeued"),
    [
        (f"{RUNNING}2026-11-20T11:18:56 Nice=0", True),
        (f"{RUNNING}None Nice=0", False),
        ("JobId=16 JobState=COMPLETING PreemptTime=2026-11-20T11:18:56 Nice=0", False),
        ("JobId=16 JobState=RUNNING Nice=0", False),
        ("", False),
    ],
)
def test_a_job_that_is_told_to_end_is_requeued_where_it_is_preempted(job: Job, facts: str, requeued: bool) -> None:
    # SLURM tells every process of the job, as often as it likes, that this one has to end
    job.program("scontrol", f'echo "$@" >>scontrol.txt; kill -TERM $$; [ "$1" = requeue ] || echo "{facts}"')
    job.stage("85", "85", "143")
    assert job.signalled("TERM", **ELEMENT) == (143, "")
    assert job.read("heard") == ["TERM"]
    assert job.read("scontrol") == ["--oneliner show job 12_3", *(["requeue 12_3"] if requeued else [])]


def test_a_warning_before_python_listens_is_not_a_failure(job: Job) -> None:
    job.stage("85", "85", "143", listens=False)
    status, _ = job.signalled("USR2", **ELEMENT)
    assert status == 128 + signal.SIGUSR2
    assert job.read("scontrol") == ["requeue 12_3"]


def test_a_warning_during_the_set_up_is_not_lost(job: Job) -> None:
    (job.folder / "sbatch" / "env.sh").write_text("touch ready; sleep 0.5\n")
    assert job.signalled("USR2", **ELEMENT) == (85, "")
    assert job.read("scontrol") == ["requeue 12_3"]
    assert job.read("arguments") == []
    (job.folder / "ready").unlink()
    assert job.signalled("TERM", **ELEMENT) == (143, "")
    assert job.read("arguments") == []


@pytest.mark.parametrize(("restarts", "again"), [("0", True), ("2", True), ("3", False)])
def test_a_slot_too_short_for_python_is_not_queued_for_ever(job: Job, restarts: str, again: bool) -> None:
    job.stage("85", "85", "143", listens=False)
    status, said = job.signalled("USR2", **ELEMENT, SLURM_RESTART_COUNT=restarts)
    (job.folder / "sbatch" / "env.sh").write_text("rm -f ready; sleep 0.1; touch ready; sleep 0.5\n")
    (job.folder / "ready").unlink()
    earlier, word = job.signalled("USR2", **ELEMENT, SLURM_RESTART_COUNT=restarts)
    assert job.read("scontrol") == (["requeue 12_3"] * 2 if again else [])
    assert (status, earlier) == ((140, 85) if again else (1, 1))
    assert said == word == ("" if again else f"job 12_3 is not queued again: {SHORT}\n")
    job.stage("85", "85", "143")
    (job.folder / "sbatch" / "env.sh").write_text("")
    (job.folder / "ready").unlink()
    assert job.signalled("USR2", **ELEMENT, SLURM_RESTART_COUNT="9")[0] == 85, "what saves goes on"


def test_the_processes_of_a_step_are_warned_and_srun_is_not_told_to_end(job: Job) -> None:
    job.program("srun", 'echo "$@" >>srun.txt; shift; exec "$@"')
    job.stage("85", "85", "143")
    assert job.signalled("TERM", "USR2", SLURM_NTASKS="2", **ELEMENT) == (85, "")
    assert job.read("heard") == ["USR2"]
    assert job.read("srun") == ["--cpus-per-task=3 python -m pipeline.stage2_distill CONFIG --index 3"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("12_1-2: Job is pending execution", ""),
        ("Invalid user", "job 12_3 could not be requeued: Invalid user; submit it again to go on\n"),
    ],
)
def test_a_requeue_that_is_refused_says_what_to_do(job: Job, answer: str, said: str) -> None:
    job.program("scontrol", f'echo "{answer}" >&2; exit 1')
    job.stage("85")
    assert job.run("CONFIG", **ELEMENT) == (85, said)


def test_the_requeue_outlives_the_signals_that_it_brings(job: Job) -> None:
    job.program("scontrol", 'kill -TERM "$PPID" "$$"; kill -CONT "$$"; echo "$@" >>scontrol.txt')
    job.stage("85")
    assert job.run("CONFIG", **ELEMENT) == (85, "")
    assert job.read("scontrol") == ["requeue 12_3"]


def test_without_env_the_job_says_where_to_submit(job: Job) -> None:
    (job.folder / "sbatch" / "env.sh").unlink()
    status, error = job.run("CONFIG")
    assert (status, error) == (2, f"no sbatch/env.sh in {job.folder}: submit from the folder of the repository\n")


def test_a_strict_env_does_not_end_the_job_at_a_signal(job: Job) -> None:
    (job.folder / "sbatch" / "env.sh").write_text("set -eu\n")
    job.stage("85", "85", "143")
    assert job.signalled("USR2", **ELEMENT) == (85, "")
    assert job.read("scontrol") == ["requeue 12_3"]


@pytest.mark.parametrize("script", SCRIPTS[:3])
def test_an_attempt_knows_its_log_for_status(job: Job, script: str) -> None:
    """Whatever ``--output`` made of it; what is no file is none."""
    job.stage("0", first='echo "$TEXTDD_LOG" >log.txt')
    with open(job.folder / "my log.out", "a") as log:
        assert job.run("CONFIG", script=script, stdout=log, **ELEMENT) == (0, "")
    assert job.read("log") == [str(job.folder / "my log.out")]
    assert job.run("CONFIG", script=script, stdout=subprocess.PIPE) == (0, "")
    assert job.read("log") == [""]


def test_places_of_the_cluster_hold_unless_env_says_otherwise(job: Job) -> None:
    cluster = Cluster(root="~/a b")
    job.run("CONFIG", cluster=cluster)
    assert job.read("environment") == [f"distill,1,3,{job.folder}/a b"]
    job.run("CONFIG", cluster=cluster, TEXTDD_ROOT="/mine")
    assert job.read("environment") == ["distill,1,3,/mine"]
    status, error = job.run("CONFIG", cluster=Cluster(root="$NOWHERE/x"))
    assert status != 0
    assert "NOWHERE" in error


def test_set_up_lines_and_interpreter_come_before_the_stage(job: Job) -> None:
    shutil.copy(job.folder / "bin" / "python", job.folder / "my python")
    cluster = Cluster.model_validate(
        {"python": "~/my python", "prefix": "env A=1", "slurm": {"distill": {"setup": ["export TEXTDD_ROOT=s"]}}}
    )
    job.program("env", 'echo "$@" >>env.txt; exec /usr/bin/env "$@"')
    assert job.run("CONFIG", cluster=cluster) == (0, "")
    assert job.read("environment") == ["distill,1,3,s"]
    assert job.read("env") == [f"A=1 {job.folder}/my python -m pipeline.stage2_distill CONFIG"]


def test_every_script_is_bash_that_sbatch_can_read(tmp_path: Path) -> None:
    """``#SBATCH`` lines after the first command are ignored by sbatch without a word."""
    for cluster in (Cluster(), RICH, EVERYTHING):
        for text in render(cluster).values():
            first = next(i for i, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
            assert not any(line.startswith("#SBATCH") for line in text.splitlines()[first:])
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)


# arrays


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "root")


Grid = Callable[..., Experiment]


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """Cells over a real local file: one per (seed of distill, seed of evaluate)."""
    (tmp_path / "data.csv").write_text("text,label\na,0\nb,1\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    def grid(*seeds: tuple[int, int]) -> Experiment:
        task = {"name": "mine", "source": {"kind": "files", "train": str(tmp_path / "data.csv")}, "text": ["text"]}
        prepare = {"task": task, "model": str(tmp_path / "model")}
        cells = [
            Evaluate.model_validate(
                {
                    "source": {"source": prepare, "method": {"name": "ddal"}, "seed": distill},
                    "protocol": {"name": "ddal"},
                    "seed": evaluate,
                }
            )
            for distill, evaluate in seeds
        ]
        typed = Typed(config="my grid.yaml", settings=("seeds=2",), cluster_file="jz.yaml")
        return Experiment(name="tiny", cells=tuple(cells), typed=typed)

    return grid


def finish(store: Store, experiment: Experiment, *positions: int) -> None:
    for position in positions:
        with store.cell(experiment.cells[position].source).claim():
            pass


def test_positions_are_those_of_the_full_grid_each_artifact_once(
    store: Store, grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = grid((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0), (4, 0), (6, 0))
    assert array(experiment, store, "distill", Cluster()) == "0,2,4-7%64"
    assert array(experiment, store, "evaluate", Cluster()) == "0-7%64"
    assert array(experiment, store, "prepare", Cluster()) == "0"
    finish(store, experiment, 1, 5)
    capsys.readouterr()
    assert array(experiment, store, "distill", Cluster()) == "2,4,6-7%64"
    assert capsys.readouterr().err == "tiny: distill: 4 left, 2 done, 0 running, 0 given up\n"
    assert array(experiment, store, "distill", cluster_of(distill={"at_once": 2})) == "2,4,6-7%2"
    assert array(experiment, store, "distill", cluster_of(distill={"at_once": None})) == "2,4,6-7"


def test_the_folder_of_the_output_is_made(store: Store, grid: Grid) -> None:
    array(grid((0, 0)), store, "distill", Cluster(logs="my logs"))
    assert Path("my logs/slurm").is_dir()


def test_what_is_being_worked_on_is_not_started_twice(store: Store, grid: Grid) -> None:
    experiment = grid((0, 0), (1, 0))
    with store.cell(experiment.cells[0].source).claim():
        assert array(experiment, store, "distill", Cluster()) == "1%64"


def test_nothing_left_is_one_sentence(store: Store, grid: Grid) -> None:
    experiment = grid((0, 0), (1, 0))
    finish(store, experiment, 0)
    with (
        store.cell(experiment.cells[1].source).claim(),
        pytest.raises(InputError, match=r"^tiny: nothing is left of distill: 0 left, 1 done, 1 running, 0 given up$"),
    ):
        array(experiment, store, "distill", Cluster())


def test_what_fails_in_the_same_way_is_given_up_until_retry(store: Store, grid: Grid) -> None:
    experiment = grid((0, 0))
    for attempt in range(2):
        assert array(experiment, store, "distill", Cluster(attempts=2)) == "0%64", attempt
        with pytest.raises(ZeroDivisionError), store.cell(experiment.cells[0].source).claim():
            1 / 0  # noqa: B018
    with pytest.raises(InputError) as caught:
        array(experiment, store, "distill", Cluster(attempts=2))
    retry = "python -m pipeline retry 'my grid.yaml' --set seeds=2 --cluster-file jz.yaml"
    assert str(caught.value).endswith(f"1 given up; {retry} takes up what was given up")
    assert array(experiment, store, "distill", Cluster(attempts=3)) == "0%64"


def test_a_position_beyond_the_clusters_arrays_is_refused(store: Store, grid: Grid) -> None:
    experiment = grid((0, 0), (1, 0), (2, 0))
    assert array(experiment, store, "distill", Cluster(), limit=3) == "0-2%64"
    with pytest.raises(InputError, match=r"position 2 of the grid .* \(MaxArraySize 2: up to 1\); .* splits them"):
        array(experiment, store, "distill", Cluster(), limit=2)
    finish(store, experiment, 2)
    assert array(experiment, store, "distill", Cluster(), limit=2) == "0-1%64"


def test_a_cell_that_ran_out_of_memory_asks_for_more(store: Store, grid: Grid) -> None:
    experiment = grid((0, 0), (1, 0))
    with pytest.raises(MemoryError), store.cell(experiment.cells[1].source).claim():
        raise MemoryError
    parts = left(experiment, store, "distill", Cluster()).parts
    assert [(part.array, part.options) for part in parts] == [("0%64", ()), ("1%64", ("--mem=64G",))]


def test_cells_that_ask_for_more_are_submitted_with_options(
    store: Store, grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = [
        {"where": {"distill.seed": [1, 2]}, "distill": {"memory_gb": 64, "constraint": "a|b", "at_once": 3}},
        {"where": {"distill.seed": 3}, "distill": {"gres": "gpu:1"}},
        {"where": {"distill.seed": 4}, "distill": {"setup": ["x"]}},
        {"where": {"distill.seed": 5}, "distill": {"at_once": 9}},
    ]
    cluster = Cluster.model_validate({"cells": rules})
    experiment = grid(*((seed, 0) for seed in range(7)))
    assert [(part.array, part.options) for part in left(experiment, store, "distill", cluster).parts] == [
        ("0,6%64", ()),
        ("1-2%3", ("--constraint='a|b'", "--mem=64G")),
        ("3-4%64", None),
        ("5%9", ()),
    ]
    assert array(experiment, store, "distill", cluster) == "0,6%64"
    _, *lines = capsys.readouterr().err.splitlines()
    assert [line.partition("gives: ")[2] for line in lines] == [
        "sbatch --array=1-2%3 --constraint='a|b' --mem=64G sbatch/2_distill.sbatch 'my grid.yaml' --set seeds=2",
        "positions 3-4: python -m pipeline run 'my grid.yaml' --cluster slurm --set seeds=2 --cluster-file jz.yaml "
        "submits them",
        "sbatch --array=5%9 sbatch/2_distill.sbatch 'my grid.yaml' --set seeds=2",
    ]
    finish(store, experiment, 0, 2, 3, 4, 5, 6)
    with pytest.raises(
        InputError, match=r"asks for more than the script gives: sbatch --array=1%3 --constraint='a\|b'"
    ):
        array(experiment, store, "distill", cluster)


def test_the_command_says_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pipeline", "sbatch"])
    with pytest.raises(SystemExit):
        __main__.main()
    said = capsys.readouterr().out
    names = said.removeprefix("written: ").strip().split(", ")
    assert said.startswith("written: sbatch/1_prepare.sbatch, ")
    assert sorted(names) == sorted(path.as_posix() for path in Path("sbatch").iterdir())


@given(st.sets(st.integers(0, 300)), st.none() | st.integers(1, 9))
def test_compressed_positions_are_all_of_them(positions: set[int], at_once: int | None) -> None:
    text, _, most = compressed(sorted(positions), at_once).partition("%")
    assert most == ("" if at_once is None else str(at_once))
    parts = [part.split("-") for part in text.split(",")] if text else []
    assert {n for part in parts for n in range(int(part[0]), int(part[-1]) + 1)} == positions
    ends = [(int(part[0]), int(part[-1])) for part in parts]
    assert all(first[1] + 1 < then[0] for first, then in itertools.pairwise(ends))


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, pipeline.launch.sbatch; print({'torch', 'submitit', 'pandas'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
