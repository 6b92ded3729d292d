"""An element of an array as submitit runs it in a job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from submitit.core.utils import DelayedSubmission

from pipeline import stopping
from pipeline.launch import element
from pipeline.launch.submission import Row
from pipeline.stopping import Stopped

PLACES = f"{Path(__file__).parents[2]}:{Path(__file__).parent}"  # of the package and of this file
SCONTROL = """#!/bin/sh
echo "scontrol $*" >> {folder}/calls
# SLURM tells every process of the job, as often as it likes, that this one has to end
kill -TERM $$
case $* in *"show job"*) echo "JobId=12 JobState=RUNNING PreemptTime={preempted}";; esac
"""


def told(name: str) -> None:
    """An element that a signal comes to; in a process of its own."""
    element.Submission = SimpleNamespace(read=lambda folder: None)  # type: ignore[misc,assignment]
    element._compute = lambda *_: os.kill(os.getpid(), getattr(signal, name))  # type: ignore[assignment]
    element.run_element("nowhere", "distill-0")


def fails() -> None:
    """An element with a cell that failed."""
    raise ValueError("not a planned stop")


def job(folder: Path, function: object, *arguments: object, preempted: str = "None") -> tuple[int, str, list[str]]:
    """What submitit's own main does with a job: exit status, standard error, and what SLURM was asked."""
    (folder / "scontrol").write_text(SCONTROL.format(folder=folder, preempted=preempted))
    (folder / "scontrol").chmod(0o755)
    DelayedSubmission(function, *arguments).dump(folder / "12_submitted.pkl")
    slurm = {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | slurm
    environment |= {"SUBMITIT_EXECUTOR": "slurm", "PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": PLACES}
    command = [sys.executable, "-m", "submitit.core._submit", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    calls = folder / "calls"
    return done.returncode, done.stderr, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(
    ("name", "preempted", "requeued"),
    [("SIGUSR2", "None", True), ("SIGTERM", "None", False), ("SIGTERM", "2026-11-21T19:15:23", True)],
)
def test_a_planned_stop_leaves_a_line_and_no_traceback(
    tmp_path: Path, name: str, preempted: str, requeued: bool
) -> None:
    status, said, calls = job(tmp_path, told, name, preempted=preempted)
    assert status == 1, "what submitit's process ended with when the exception went through it"
    assert "Traceback" not in said
    ours = [line for line in said.splitlines() if not line.startswith("submitit ")]
    assert ours == [f"{name}: saving and stopping", f"stopped by {name}; what was done is saved"]
    assert ("scontrol requeue 12" in calls) is requeued
    assert not list(tmp_path.glob("*result.pkl")), "no result: it is not over"


def test_other_errors_keep_their_tracebacks(tmp_path: Path) -> None:
    status, said, _ = job(tmp_path, fails)
    assert (status, "Traceback" in said, "not a planned stop" in said) == (1, True, True)


def test_elsewhere_the_caller_hears_of_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    monkeypatch.setattr(element.Submission, "read", lambda folder: None)
    monkeypatch.setattr(element, "_compute", lambda *_: os.kill(os.getpid(), signal.SIGUSR2))
    monkeypatch.setattr(element, "due", lambda name: False)
    with pytest.raises(Stopped):
        element.run_element("nowhere", "distill-0")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with pytest.raises(Stopped):  # a child of a job: its own command line ends it with a status that the job reads
        element.run_element("nowhere", "distill-0", 0, 1)


def test_a_stop_goes_on_to_each_child_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one would come to it while it closes."""
    children: list[Child] = []

    class Child:
        def __init__(self, command: list[str], **_: object) -> None:
            self.command, self.told, self.looks, self.returncode = command, 0, 0, 0
            children.append(self)

        def terminate(self) -> None:
            self.told += 1

        def wait(self, timeout: float) -> None:
            self.looks += 1
            if self.looks == 2 and self is children[0]:
                os.kill(os.getpid(), signal.SIGTERM)
            if self.looks < 6:
                raise subprocess.TimeoutExpired("", timeout)
            self.returncode = 143

    monkeypatch.setattr(subprocess, "Popen", Child)
    row = Row("a", "distill", (("a", "b", "c"),), together=2)
    with stopping.listen(), pytest.raises(Stopped):
        element._side_by_side(SimpleNamespace(folder=tmp_path), row, 0, [None] * 3)  # type: ignore[arg-type]
    assert [(child.command[-1], child.told) for child in children] == [("0", 1), ("1", 1)]
