"""A private, real SLURM for tests: two virtual nodes on this machine, driven by the commands that users type."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
NODES = ("n1", "n2")
Accounting = Literal["db", "none"]
_PROGRAMS = {
    "none": ("slurmctld", "slurmd", "munged", "sbatch"),
    "db": ("slurmctld", "slurmd", "munged", "sbatch", "slurmdbd", "mariadbd"),
}
PATIENCE = 300.0  # seconds until what is waited for is given up: machines under load are slow, and none is timed here
_MOVING = ("COMPLETING", "CONFIGURING", "STAGE_OUT")


def missing_programs(accounting: Accounting) -> list[str]:
    """What would have to be installed first; Debian has daemons where only root's PATH leads."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    return [program for program in _PROGRAMS[accounting] if shutil.which(program, path=path) is None]


@dataclass(frozen=True)
class Line:
    """One element of the queue, or of what has ended within the last minutes."""

    job: str  # 12 or 12_3
    state: str
    reason: str
    nodes: str
    name: str


@dataclass(frozen=True)
class Slurm:
    """A running SLURM.

    Attributes:
        root: folder of its configuration, logs and state.
        accounting: whether ``sacct`` has answers.
        environment: variables with which its commands, and whatever uses them, find it.

    """

    root: Path
    accounting: bool
    environment: dict[str, str]

    def run(self, *command: object, check: bool = True, **options: Any) -> str:
        """A command's output; its complaint is the message where it fails."""
        words = [str(word) for word in command]
        environment = {**os.environ, **self.environment, **options.pop("env", {})}
        done = subprocess.run(words, capture_output=True, text=True, env=environment, **options)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.report()}")
        return done.stdout.strip()

    def sbatch(self, body: str, *options: object, output: Path | None = None) -> str:
        """Submits lines of shell; the job's number."""
        script = f"#!/bin/bash\n{body}\n"
        small = ("--parsable", "--mem=100", "--ntasks=1", f"--output={output or '/dev/null'}", "--open-mode=append")
        return self.run("sbatch", *small, *options, input=script).split(";")[0]

    def queue(self, job: str | None = None, everything: bool = False) -> dict[str, Line]:
        """Element -> what squeue says of it; with ``everything`` also of what has ended (for MinJobAge, 300 s)."""
        fields = "%i|%T|%r|%N|%j"
        which = (*(("-j", job) if job else ()), *(("-t", "all") if everything else ()))
        # An unknown number is an error of squeue's; here it is a job that has nothing to say.
        lines = self.run("squeue", "--noheader", "--array", "--format", fields, *which, check=False).splitlines()
        return {found.job: found for found in (Line(*line.split("|")) for line in lines)}

    def states(self, job: str) -> dict[str, str]:
        """Element -> state, also of elements that have ended. An element cancelled while it was pending is absent."""
        return {element: line.state for element, line in self.queue(job, everything=True).items()}

    def state(self, job: str) -> str | None:
        """Of one job or element."""
        return self.states(job).get(job)

    def wait_for(
        self, predicate: Callable[[], object], seconds: float = PATIENCE, what: str = "the event", every: float = 0.1
    ) -> Any:
        """The first true answer; fails with the queue and the controller's last words after ``seconds``."""
        end = time.monotonic() + seconds
        while not (found := predicate()):
            assert time.monotonic() < end, f"{what} did not happen within {seconds} s\n{self.report()}"
            time.sleep(every)
        return found

    def wait_state(self, job: str, *states: str, seconds: float = PATIENCE) -> str:
        """Waits until a job or element has one of the states."""
        return self.wait_for(
            lambda: (state := self.state(job)) in states and state, seconds, f"job {job} as {' or '.join(states)}"
        )

    def wait_gone(self, *jobs: str) -> None:
        """Waits until nothing of the jobs (default: of any job) is in the queue."""

        def gone() -> bool:
            return not ([line for job in jobs for line in self.queue(job)] if jobs else self.queue())

        self.wait_for(gone, what=f"the end of {' '.join(jobs) or 'all jobs'}")

    def start_now(self, job: str) -> None:
        """Ends the wait of requeued elements: 10 s here, 121 s on a real cluster.

        An update while SLURM still completes the earlier run would be lost, and a start in the second of the requeue is
        refused by the node ("Job credential revoked"; the job FAILED): this waits until neither can happen.
        """
        seen: dict[str, float] = {}

        def free() -> bool:
            lines = self.queue(job).values()
            for line in lines:
                waits = line.state == "PENDING" and line.reason == "BeginTime"
                if waits and time.monotonic() - seen.setdefault(line.job, time.monotonic()) > 2:
                    self.run("scontrol", "update", f"jobid={line.job}", "starttime=now", check=False)
            return not any(line.state in _MOVING or line.reason == "BeginTime" for line in lines)

        self.wait_for(free, what=f"job {job} free to start")

    def restarts(self, job: str) -> int:
        """How often a job or element was requeued."""
        words = self.run("scontrol", "-o", "show", "job", job).split()
        return int(next(word for word in words if word.startswith("Restarts=")).partition("=")[2])

    def preempt(self, *nodes: str, seconds: float = 1, wait: bool = True) -> str:
        """Takes nodes (default: both) from the jobs of ``scavenge`` with a job of ``debug``; its number.

        What runs there in ``debug`` is not pre-empted: this waits for its end.
        """
        nodes = nodes or NODES
        where = (f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}")
        options = ("--job-name=taker", "--partition=debug", "--exclusive", "--mem=0", *where)
        job = self.sbatch(f"sleep {seconds}", *options)
        if wait:
            self.wait_state(job, "RUNNING", "COMPLETING", "COMPLETED")
        return job

    @contextmanager
    def node_down(self, node: str) -> Iterator[None]:
        """A node fails and, at the end, is back; what ran there is requeued at once."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        try:
            yield
        finally:
            self.node_up(node)

    def node_up(self, node: str) -> None:
        """Brings a node back that is down or, as SLURM does by itself after trouble with a job, drained."""

        def up() -> bool:
            state = self.run("sinfo", "-h", "-n", node, "-o", "%T")
            if "down" in state or "drain" in state:
                self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
            return not set(self.run("sinfo", "-h", "-n", node, "-o", "%T").split()) - {"idle", "mixed", "allocated"}

        self.wait_for(up, what=f"{node} back")

    def cancel(self, *jobs: str) -> None:
        """Jobs, arrays or elements; default: all. Never by %A: SLURM refuses the raw number of an element."""
        jobs = jobs or tuple({element.partition("_")[0] for element in self.queue()})
        if jobs:
            self.run("scancel", "--quiet", *jobs, check=False)

    def clean(self) -> None:
        """Nothing in the queue, every node up."""
        self.cancel()
        self.wait_gone()
        for node in NODES:
            self.node_up(node)

    def report(self) -> str:
        """What a failed wait shows."""
        queue = self.run("squeue", "--array", "-t", "all", "-o", "%.10i %.9P %.20j %.10T %.20S %N %r", check=False)
        log = (self.root / "log" / "slurmctld.log").read_text().splitlines()[-15:]
        return "\n".join([queue, *log])


@contextmanager
def running(accounting: Accounting = "db", *lines: str, **knobs: object) -> Iterator[Slurm]:
    """Starts a SLURM in a temporary folder, and stops and wipes it; it also goes when this process is killed.

    Args:
        accounting: with a database, or ``none``.
        lines: more of slurm.conf, such as ``MaxArraySize=20``.
        knobs: of ``slurm-up``: ``grace=20`` is SLURM_TEST_GRACE=20.

    Raises:
        RuntimeError: packages are missing, or it did not start.

    """
    if missing := missing_programs(accounting):
        raise RuntimeError(
            f"the tests against a real SLURM need {', '.join(missing)}; "
            "install them with tests/slurm/slurm-up --install (Debian, Ubuntu), or type: make test-slurm"
        )
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    asked = {f"SLURM_TEST_{name.upper()}": str(value) for name, value in knobs.items()}
    asked |= {"SLURM_TEST_ACCT": accounting, "SLURM_TEST_CONF": "\n".join(lines), "SLURM_TEST_UNTIL": str(os.getpid())}
    try:
        up = subprocess.run([HERE / "slurm-up", root], env=environment | asked, capture_output=True, text=True)
        if up.returncode:
            raise RuntimeError(f"slurm-up: {up.stderr}")
        path = os.pathsep.join(dict.fromkeys([*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin"]))
        yield Slurm(root, accounting == "db", {"SLURM_CONF": str(root / "etc/slurm.conf"), "PATH": path})
    finally:
        subprocess.run([HERE / "slurm-down", "--wipe", root], env=environment)
        shutil.rmtree(root, ignore_errors=True)
