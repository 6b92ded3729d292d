"""The rig itself: what the other tests of this folder take for granted about SLURM."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm import rig
from tests.slurm.rig import Slurm, running

# A process that writes down what it is told, and leaves or stays as it is asked to.
_LISTENER = """
import os, signal, sys, time
path, stays = sys.argv[1:]
def told(number, frame):
    with open(path, "a") as file: print(signal.Signals(number).name, file=file)
    if not int(stays): sys.exit(0)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2): signal.signal(number, told)
with open(path, "a") as file: print("start", os.environ.get("SLURM_RESTART_COUNT", "0"), file=file)
time.sleep(0.5 if "SLURM_RESTART_COUNT" in os.environ else 100)
while time.sleep(0.1) is None and "SLURM_RESTART_COUNT" not in os.environ: pass
"""


@pytest.fixture
def listener(tmp_path: Path) -> str:
    path = tmp_path / "listener.py"
    path.write_text(_LISTENER)
    return f"{sys.executable} {path}"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_an_array_runs_so_many_at_once(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.sbatch(f"echo $SLURM_ARRAY_TASK_ID >> {tmp_path}/ran; sleep 1", "--array=1,3-6%2")
    most = 0
    while queue := slurm.queue(job):
        most = max(most, sum(line.state == "RUNNING" for line in queue.values()))
        time.sleep(0.05)
    assert most == 2
    assert sorted(lines(tmp_path / "ran")) == ["1", "3", "4", "5", "6"]
    assert slurm.states(job) == {f"{job}_{index}": "COMPLETED" for index in (1, 3, 4, 5, 6)}


def test_an_element_waits_for_its_own_parent(slurm: Slurm, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    # 0 ends, 1 fails, 2 is cancelled, 3 runs on
    parent = slurm.sbatch("case $SLURM_ARRAY_TASK_ID in 0) ;; 1) exit 1;; *) sleep 100;; esac", "--array=0-3")
    child = slurm.sbatch(f"echo $SLURM_ARRAY_TASK_ID >> {ran}", "--array=0-3", f"--dependency=aftercorr:{parent}")
    after = slurm.sbatch("true", f"--dependency=afterany:{parent}")
    slurm.wait_state(f"{parent}_2", "RUNNING")
    slurm.cancel(f"{parent}_2")
    slurm.wait_state(f"{child}_0", "COMPLETED")
    never = "DependencyNeverSatisfied"
    given_up = {f"{child}_1": never, f"{child}_2": never, f"{child}_3": "Dependency"}
    slurm.wait_for(
        lambda: {element: line.reason for element, line in slurm.queue(child).items()} == given_up, what="1, 2 given up"
    )
    assert slurm.state(after) == "PENDING"
    slurm.cancel(f"{parent}_3")
    slurm.wait_state(after, "COMPLETED")
    assert lines(ran) == ["0"]
    assert slurm.queue(child)[f"{child}_3"].reason == never


def test_a_requeued_parent_keeps_its_child_waiting(slurm: Slurm) -> None:
    parent = slurm.sbatch('[ -n "$SLURM_RESTART_COUNT" ] || sleep 100', "--array=0-1", "--requeue")
    child = slurm.sbatch("true", "--array=0-1", f"--dependency=aftercorr:{parent}")
    for index in (0, 1):
        slurm.wait_state(f"{parent}_{index}", "RUNNING")
    slurm.run("scontrol", "requeue", f"{parent}_0")
    slurm.wait_for(lambda: slurm.queue(parent)[f"{parent}_0"].reason == "BeginTime", what="the wait")
    assert {line.reason for line in slurm.queue(child).values()} == {"Dependency"}
    assert slurm.state(f"{parent}_1") == "RUNNING"
    slurm.start_now(f"{parent}_0")
    slurm.wait_state(f"{child}_0", "COMPLETED")
    assert slurm.restarts(f"{parent}_0") == 1
    assert slurm.state(f"{child}_1") == "PENDING"


@pytest.mark.parametrize(
    ("script", "stays", "signals", "requeued"),
    [
        ("srun", True, ["SIGTERM", "SIGTERM"], True),  # the second at the end of the grace
        ("srun", False, ["SIGTERM"], False),  # who leaves by himself is done, says SLURM
        ("exec", False, ["SIGTERM"], True),  # told at the end of the grace only
    ],
)
def test_preemption(
    slurm: Slurm, listener: str, tmp_path: Path, script: str, stays: bool, signals: list[str], requeued: bool
) -> None:
    told = tmp_path / "told"
    job = slurm.sbatch(f"{script} {listener} {told} {int(stays)}", "--partition=scavenge", "--nodelist=n1", "--requeue")
    slurm.wait_for(lambda: lines(told), what="the listener")
    slurm.preempt("n1")
    if not requeued:
        assert slurm.wait_state(job, "COMPLETED") == "COMPLETED"
        assert lines(told) == ["start 0", *signals]
        return
    slurm.start_now(job)
    slurm.wait_state(job, "COMPLETED")
    # SIGTERM comes again while the job is being ended; how often is up to SLURM
    assert lines(told)[: len(signals) + 1] == ["start 0", *signals]
    assert lines(told)[-1] == "start 1"
    if slurm.accounting:
        rows = ("sacct", "-n", "-X", "-P", "-D", "-j", job, "-o", "State")
        slurm.wait_for(lambda: "PREEMPTED" in slurm.run(*rows).splitlines(), what="a row of the pre-empted run")


@pytest.mark.parametrize("end", ["inside", "outside"])
def test_requeue(slurm: Slurm, listener: str, tmp_path: Path, end: str) -> None:
    told = tmp_path / "told"
    inside = 'trap "" TERM; [ -n "$SLURM_RESTART_COUNT" ] || scontrol requeue $SLURM_JOB_ID' if end == "inside" else ":"
    job = slurm.sbatch(f"{inside}\nsrun {listener} {told} 0", "--requeue")
    if end == "outside":
        slurm.wait_for(lambda: lines(told), what="the listener")
        slurm.run("scontrol", "requeue", job)
    slurm.wait_for(lambda: slurm.restarts(job) == 1, what="the requeue")
    slurm.start_now(job)
    slurm.wait_state(job, "COMPLETED")
    assert lines(told)[-1] == "start 1"


def test_a_requeued_job_starts_by_itself(slurm: Slurm) -> None:
    job = slurm.sbatch('[ -n "$SLURM_RESTART_COUNT" ] || sleep 100', "--requeue")
    slurm.wait_state(job, "RUNNING")
    slurm.run("scontrol", "requeue", job)
    slurm.wait_state(job, "COMPLETED", seconds=100)  # after 10 s; where nobody says otherwise, SLURM waits for 121 s


def test_a_node_fails_and_is_back(slurm: Slurm) -> None:
    job = slurm.sbatch('[ -n "$SLURM_RESTART_COUNT" ] || sleep 100', "--requeue", "--nodelist=n2")
    slurm.wait_state(job, "RUNNING")
    with slurm.node_down("n2"):
        slurm.wait_state(job, "PENDING")
        time.sleep(6)  # it does not come back by itself
        assert slurm.run("sinfo", "-h", "-n", "n2", "-o", "%T").split()[0] == "down"
    slurm.start_now(job)
    slurm.wait_state(job, "COMPLETED")


def test_a_drained_node_comes_back(slurm: Slurm) -> None:
    """SLURM drains a node of which it believes that it cannot end a process."""
    slurm.run("scontrol", "update", "nodename=n2", "state=drain", "reason=Kill task failed")
    slurm.wait_for(lambda: "drain" in slurm.run("sinfo", "-h", "-n", "n2", "-o", "%T"), what="n2 drained")
    slurm.clean()
    slurm.wait_state(slurm.sbatch("true", "--nodelist=n2"), "COMPLETED")


def test_pretended_gpus_are_counted(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.sbatch(f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/seen; sleep 1", "--gpus-per-node=2")
    slurm.wait_state(job, "COMPLETED")
    assert lines(tmp_path / "seen") == ["0,1"]
    with pytest.raises(AssertionError, match="Requested node configuration is not available"):
        slurm.sbatch("true", "--gpus-per-node=9")


def test_sacct_where_there_is_accounting(slurm: Slurm) -> None:
    job = slurm.sbatch("exit 3")
    slurm.wait_state(job, "FAILED")
    if slurm.accounting:
        row = ["sacct", "-n", "-X", "-P", "-j", job, "-o", "State,ExitCode"]
        slurm.wait_for(lambda: slurm.run(*row) == "FAILED|3:0", what="the row of sacct")
    else:
        done = subprocess.run(["sacct", "-j", job], capture_output=True, text=True)
        assert "Slurm accounting storage is disabled" in done.stdout + done.stderr


def test_a_second_one_with_other_settings(slurm: Slurm) -> None:
    with running("none", "MaxArraySize=11", requeue=5) as other:
        assert other.root != slurm.root
        other.sbatch("true", "--array=10")
        with pytest.raises(AssertionError, match="Invalid job array specification"):
            other.sbatch("true", "--array=0-11")
    assert not other.root.exists()
    assert "UP" in slurm.run("scontrol", "ping")


def test_it_goes_when_its_owner_is_killed(slurm: Slurm, tmp_path: Path) -> None:
    program = (
        "import os, signal\nfrom tests.slurm.rig import running\n"
        "with running('none') as slurm:\n    print(slurm.root, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(rig.HERE.parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    root = Path(done.stdout.strip())
    assert root.name.startswith("slurm-"), done.stderr
    slurm.wait_for(lambda: not root.exists(), what="the end of an abandoned SLURM")


def test_missing_packages_are_a_sentence(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program, path: None if program == "slurmd" else program)
    with pytest.raises(RuntimeError, match=r"need slurmd; install them with tests/slurm/slurm-up --install"), running():
        pass


def test_help_is_its_first_comment_and_starts_nothing(slurm: Slurm, tmp_path: Path) -> None:
    done = subprocess.run([rig.HERE / "slurm-up", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("slurm-up [ROOT] -- start a private, real SLURM")
    assert "SLURM_TEST_UNTIL=PID" in done.stdout.splitlines()[-1]
    assert not list(tmp_path.iterdir())
