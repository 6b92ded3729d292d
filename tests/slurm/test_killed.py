"""kill -9 at random moments of every stage: whoever types the command again ends where an undisturbed run does.

Moments are drawn from a seed as (file that is written or moved, milliseconds after it), which says where in the code a
process dies on a fast machine as on a slow one. A few here; at least fifty with ``-m nightly``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from pipeline.config import load
from pipeline.launch import stage_cells
from pipeline.store import Store
from tests.slurm.conftest import REPOSITORY, Tiny, made
from tests.slurm.rig import Slurm

# Python starts this file by itself. It counts what is written per cell (or in the tables, or in a submission), and
# kills its process, or the one that started that, when the stage in the file "next" has come so far.
KILLER = """
import atexit, collections, json, os, signal, threading
HOME = os.environ["KILLER"]
counts = collections.Counter()
try:
    with open(f"{HOME}/next") as file: stage, number, delay, victim = json.load(file)
except OSError: stage, number = None, 0
def kill():
    try: os.rename(f"{HOME}/next", f"{HOME}/killed") # only one dies
    except OSError: return
    with open(f"/proc/{os.getppid()}/environ", "rb") as file: ours = f"KILLER={HOME}".encode() in file.read()
    os.kill(os.getppid() if victim == "parent" and ours else os.getpid(), signal.SIGKILL)
def place(path):
    parts = os.path.relpath(os.path.abspath(os.fsdecode(path)), os.path.dirname(HOME)).split("/")
    if parts[0] == "artifacts": return parts[1:3] if len(parts) > 3 else [None, None]
    return {"results": ["aggregate", ""], "logs": ["submit", ""]}.get(parts[0], [None, None])
def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR): return
    elif event in ("os.rename", "os.remove", "os.mkdir"): path = arguments[event == "os.rename"]
    else: return
    where = tuple(place(path))
    if where[0] is None: return
    counts[where] += 1
    if where[0] == stage and counts[where] == number:
        if not delay: kill()
        threading.Timer(delay, kill).start()
        atexit.register(kill)
def most():
    for (stage, cell), count in counts.items():
        with open(f"{HOME}/counts", "a") as file: print(json.dumps([stage, count]), file=file)
if "KILLER" in os.environ:
    atexit.register(most)
    import sys; sys.addaudithook(hook)
"""
STAGES = ("prepare", "distill", "evaluate", "aggregate")
Executor = Literal["local", "slurm", "debug"]


@dataclass(frozen=True)
class Moment:
    """When who dies.

    Attributes:
        stage: of the pipeline; ``submit`` while it is written down what will run.
        number: of the file of one cell that is about to be written, moved or removed.
        delay: seconds after that.
        victim: the ``process`` that writes, its ``parent``, or ``all`` of the run, as in a power cut.

    """

    stage: str
    number: int
    delay: float = 0.0
    victim: str = "process"


class Victim:
    """An experiment whose processes can be told when to die.

    Args:
        tiny: the experiment.
        folder: for all that its runs write.
        slurm: where its jobs run.

    """

    def __init__(self, tiny: Tiny, folder: Path, slurm: Slurm) -> None:
        self.tiny, self.folder, self.slurm, self.home = tiny, folder, slurm, folder / "killer"
        self.home.mkdir(parents=True)
        (self.home / "sitecustomize.py").write_text(KILLER)
        cluster = yaml.safe_load(tiny.cluster.read_text()) | {"logs": str(folder / "logs")}
        (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster))

    def start(self, executor: str) -> subprocess.Popen[str]:
        """The command that is typed again and again."""
        self.tiny.environment.update(KILLER=str(self.home), PYTHONPATH=f"{self.home}:{REPOSITORY}")
        places = [f"--root={self.folder}/artifacts", f"--out={self.folder}/results"]
        words = ["--cluster", executor, "--cluster-file", self.folder / "cluster.yaml", "--no-check", *places]
        return self.tiny.start("run", self.tiny.config, *words, stdout=subprocess.DEVNULL)

    def kill(self, executor: Executor, moment: Moment, times: int = 1) -> None:
        """A run with a death on the way; typed again where orphans of an earlier one have to end first."""
        (self.home / "killed").unlink(missing_ok=True)
        (self.home / "next").write_text(json.dumps([moment.stage, moment.number, moment.delay, moment.victim]))
        for _ in range(times):
            process = self.start(executor)
            while process.poll() is None:
                if moment.victim == "all" and (self.home / "killed").exists():
                    self.kill_all()
                time.sleep(0.02)
            _, said = process.communicate()
            self.slurm.wait_gone()
            if (self.home / "killed").exists():
                return
            time.sleep(3)
        raise AssertionError(f"{moment} did not come: {said}")

    def kill_all(self) -> None:
        """Every process of the run that is left."""
        mark = f"KILLER={self.home}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)
            except OSError:
                continue

    def finish(self, executor: Executor) -> None:
        """The same command to its end."""
        process = self.start(executor)
        _, said = process.communicate()
        assert process.returncode == 0, said
        self.slurm.wait_gone()

    def made(self) -> dict[str, Any]:
        return made(self.folder / "artifacts", self.folder / "results")

    @property
    def counts(self) -> dict[str, int]:
        """The files that a cell of each stage writes, by a run that was not killed."""
        lines = [json.loads(line) for line in (self.home / "counts").read_text().splitlines()]
        return {stage: max(count for name, count in lines if name == stage) for stage in STAGES}


Make = Callable[..., Victim]


@pytest.fixture
def victim(tiny: Callable[..., Tiny], slurm: Slurm) -> Make:
    """A grid of so many cells, each with three outer steps, each of which is saved."""

    def victim(cells: int, name: str = "run") -> Victim:
        methods = [{"labels": "unrestricted", "attention_labels": "cls"}, {"labels": "hard"}][:cells]
        runtime = {"threads": 1, "save_seconds": 0}
        grids = [{"distill.method": methods}]
        found = tiny({"attempts": 99}, grids=grids, distill={"runtime": runtime}, evaluate={"initialisations": 3})
        return Victim(found, found.folder / name, slurm)

    return victim


def test_local_processes(victim: Make) -> None:
    expected, killed = victim(1, "undisturbed"), victim(1)
    other = expected.start("debug")
    for stage, number in (("prepare", 30), ("evaluate", 25), ("aggregate", 6)):
        killed.kill("local", Moment(stage, number))
    killed.finish("local")
    assert other.wait() == 0
    assert killed.made() == expected.made()


def test_slurm_jobs(victim: Make) -> None:
    expected, killed = victim(1, "undisturbed"), victim(1)
    other = expected.start("debug")
    killed.kill("slurm", Moment("distill", 30))
    killed.finish("slurm")
    assert other.wait() == 0
    assert killed.made() == expected.made()


def test_a_killed_process_whose_end_nobody_has_asked_for(victim: Make) -> None:
    """In many containers process 1 does not, or late: the dead keep their numbers."""
    tiny = victim(1).tiny
    (cell,) = stage_cells(load(tiny.config), Store(tiny.root), "prepare")
    program = (
        "import sys, time\nfrom pipeline.config import load\nfrom pipeline.launch import stage_cells\n"
        "from pipeline.store import Store\n(cell,) = stage_cells(load(sys.argv[1]), Store(sys.argv[2]), 'prepare')\n"
        "with cell.claim(): print('held', flush=True); time.sleep(100)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", program, str(tiny.config), str(tiny.root)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert cell.state == "running"
        holder.kill()
        stat = Path(f"/proc/{holder.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert cell.state == "partial"
        threading.Timer(2, holder.wait).start()
        with cell.claim() as out:
            assert out is not None
    assert [attempt.outcome for attempt in cell.attempts()] == ["killed", "done"]


@pytest.fixture(scope="module")
def known() -> dict[int, tuple[dict[str, Any], dict[str, int]]]:
    return {}


@pytest.fixture
def undisturbed(known: Any, victim: Make) -> Callable[[int], tuple[dict[str, Any], dict[str, int]]]:
    """What a run of so many cells makes that nothing happens to, and its counts."""

    def undisturbed(cells: int) -> tuple[dict[str, Any], dict[str, int]]:
        if cells not in known:
            whole = victim(cells, "undisturbed")
            whole.finish("debug")
            known[cells] = whole.made(), whole.counts
        return known[cells]

    return undisturbed


def drawn(draw: random.Random, stage: str, most: int) -> Moment:
    """Half of them between two operations on files, half a little later."""
    delay = draw.choice([0.0, draw.uniform(0, 0.02)])
    inside = stage in ("prepare", "distill", "evaluate")
    return Moment(
        stage, draw.randint(1, most), delay, draw.choice(["process", "parent", "all"]) if inside else "process"
    )


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
def test_many_local_processes(victim: Make, undisturbed: Any, seed: int) -> None:
    expected, counts = undisturbed(2)
    draw, killed = random.Random(seed), victim(2)
    for stage in ("submit", *STAGES):
        killed.kill("local", drawn(draw, stage, counts.get(stage, 100)), times=6)
    killed.finish("local")
    assert killed.made() == expected


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
def test_many_slurm_jobs(victim: Make, undisturbed: Any, slurm: Slurm, seed: int) -> None:
    expected, counts = undisturbed(2)
    draw, killed = random.Random(seed), victim(2)
    for stage in ("prepare", "submit", "distill", "evaluate", "aggregate"):
        moment = drawn(draw, stage, counts.get(stage, 100))
        killed.kill("slurm", replace(moment, victim="process"))
        if stage in ("distill", "evaluate") and draw.random() < 0.5:
            for job in [job for job, state in slurm.queue(everything=True).items() if state.state == "FAILED"]:
                slurm.run("scontrol", "requeue", job)
                slurm.start_now(job)
                slurm.wait_gone(job)
    killed.finish("slurm")
    assert killed.made() == expected
