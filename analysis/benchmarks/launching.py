"""Time of ``status``, ``--dry-run`` and the submission of a grid of 500 cells, which must take under 2 s and no torch.

    python -m analysis.benchmarks.launching

Run from the repository root. A made-up grid in the manner of Table 3 (four tasks, five methods, 25 settings; a local
encoder of a few kilobytes), half done: of 500 sets and 500 evaluations some are done, failed, running and in the queue.
Whole processes are timed, from the start of Python to its end, with files in the page cache. Without a scheduler; with
stand-ins for SLURM's programs, which answer at once, so that what remains is ours and submitit's; and with the SLURM of
this machine where ``SLURM_CONF`` is set (its jobs are held and cancelled). Lines land in ``results/launching.csv``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from analysis.benchmarks.measure import RESULTS, Table, hardware, versions
from pipeline.config import Experiment, load
from pipeline.config.cluster import Cluster
from pipeline.launch.plan import Live, plan
from pipeline.launch.scheduler import Scheduler
from pipeline.launch.stages import stage_cells
from pipeline.launch.submission import PREFIX, Submission
from pipeline.store import Attempt, Cell, Store

MODULE = "analysis.benchmarks.launching"
NAME = "launching-benchmark"  # of the experiment, and so of its jobs
ROOT = Path(__file__).resolve().parents[2]
TARGET = 2.0  # seconds
ARRAY = 1001  # MaxArraySize of the stand-in, which is SLURM's default
HEAVY = ("torch", "transformers", "datasets", "pandas")
KEY = ("what", "cells", "scheduler", "hardware")
COLUMNS = (
    *(*KEY[:-1], "seconds", "slowest", "cpu_seconds", "runs", "target", "verdict", "imported", "hardware", "versions"),
)
SMALL = {"minutes": 5, "gpus": 0, "cpus": 1, "memory_gb": 1}  # any SLURM would take this
METHODS = ((1, 1, 1), (1, 5, 5), (3, 1, 1), (3, 3, 1), (5, 5, 1))  # steps, shots, shots per batch
COMMAND = f"""
import sys
from pipeline.__main__ import main
try:
    main()
except SystemExit as end:
    status = end.code or 0
print("imported", ", ".join(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
sys.exit(status)
"""
PROGRAMS = {  # of SLURM, in a shell's own words: each takes a few milliseconds
    "squeue": '/bin/cat "$0.out"',
    "sacct": "exit 0",
    "scontrol": f"echo 'MaxArraySize = {ARRAY}'; echo 'AccountingStorageType = accounting_storage/slurmdbd'",
    "scancel": "exit 0",
    "srun": "exit 0",
    "sbatch": 'read n < "$0.out"; echo $((n + 1)) > "$0.out"; echo "Submitted batch job $n"',
}


@dataclass(frozen=True)
class Place:
    """A folder in which a user types: configs, artifacts, logs, programs.

    Attributes:
        folder: of all that.
        cells: of the grid.

    """

    folder: Path
    cells: int

    @property
    def config(self) -> Path:
        """The experiment."""
        return self.folder / f"{NAME}.yaml"

    def make(self, settings: Mapping[str, Any]) -> None:
        """Writes the files of a user; ``settings`` are of ``cluster.yaml``."""
        model = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2}
        for path, text in (("model/config.json", json.dumps(model)), ("model/vocab.txt", "[PAD]\n[UNK]\n")):
            self._write(path, text)
        tasks = []
        for number in range(4):
            path = self._write(f"data/task{number}.jsonl", f'{{"text": "sentence {number}", "label": 0}}\n')
            tasks.append({"name": f"task{number}", "source": {"kind": "files", "train": str(path)}, "text": ["text"]})
        rates = [0.01 * 1.3**number for number in range(max(1, self.cells // (4 * len(METHODS) * 5)))]
        whole = {
            "base": {
                "prepare": {"model": str(self.folder / "model"), "dev": 0.1, "test": 0.1},
                "distill": {"method": {"name": "ddal", "labels": "unrestricted", "attention_labels": "cls"}},
                "evaluate": {"protocol": {"name": "ddal"}},
            },
            "grids": [
                {
                    "prepare.task": tasks,
                    "distill.method": [{"steps": T, "shots": M, "batch_shots": m} for T, M, m in METHODS],
                    "distill.method.outer.lr": [0.001, 0.003, 0.01, 0.03, 0.1],
                    "distill.method.learning_rate": rates,
                }
            ],
        }
        self._write(f"{NAME}.yaml", yaml.safe_dump(whole))
        self._write("configs/cluster.yaml", yaml.safe_dump({"root": str(self.folder / "root"), **settings}))

    def programs(self) -> Path:
        """A folder of stand-ins for SLURM's programs."""
        for name, text in PROGRAMS.items():
            self._write(f"programs/{name}", f"#!/bin/sh\n{text}\n").chmod(0o755)
        self._write("programs/sbatch.out", "1000\n")
        self._write("programs/squeue.out", "")
        return self.folder / "programs"

    def _write(self, path: str, text: str) -> Path:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place


def half_done(place: Place) -> None:
    """Artifacts, records and jobs of a grid in the middle of its run.

    Stage 1 is done. Of every ten sets and evaluations six are done, one failed, one runs and two are in the queue.
    """
    experiment, store = load(place.config), Store(place.folder / "root")
    ready(experiment, store)
    planned = plan(experiment, store, Cluster(), Live(), limit=ARRAY)
    submission = Submission.new(experiment, store, place.folder / "logs", planned, place.folder / "out")
    lines = []
    for number, name in enumerate(submission.rows, 100):
        submission.record(name, str(number))
        row = submission.rows[name]
        for index in range(len(row.elements)):
            state = ("PENDING", "Priority") if index % 10 > 7 else ("RUNNING", "None") if index % 10 == 7 else None
            if state is not None:
                at = f"{time.time():.0f}" if state[0] == "RUNNING" else "N/A"
                job = row.job_of(index)
                lines.append(f"{job}|{state[0]}|N/A|{at}|n1|0|0|{state[1]}|{submission.job_name(name)}|")
    for stage in ("distill", "evaluate"):
        for index, cell in enumerate(stage_cells(experiment, store, stage)):  # type: ignore[arg-type]
            _put(cell, index, f"{100 if stage == 'distill' else 101}_{index}")
    place._write("programs/squeue.out", "\n".join(lines) + "\n")


def ready(experiment: Experiment, store: Store) -> None:
    """Stage 1 as if it were done."""
    for cell in stage_cells(experiment, store, "prepare"):
        with cell.claim() as out:
            if out is not None:
                (out / "manifest.json").write_text('{"sizes": {"train": 10000}}')


def _put(cell: Cell, index: int, job: str) -> None:
    if index % 10 > 7:
        return
    began = datetime.now(UTC) - timedelta(hours=2)
    facts = {"number": 1, "host": "n1", "pid": 7, "began": began.isoformat(timespec="milliseconds"), "job": job}
    ended = {"ended": datetime.now(UTC).isoformat(timespec="milliseconds"), "seconds": 3600.0}
    failed = {"outcome": "failed", "reason": "exception", "exception": "RuntimeError: it does not work"}
    more: dict[str, Any] = {} if index % 10 == 7 else ended | (failed if index % 10 == 6 else {"outcome": "done"})
    (cell.folder / "attempts").mkdir(parents=True)
    (cell.folder / "config.json").write_text(cell.config.model_dump_json())
    (cell.folder / "attempts" / "001.json").write_text(json.dumps(asdict(Attempt(**facts, **more))))
    steps = "".join(f"{step},0,0.5,0.1,0.01,,,7.0\n" for step in range(1, 500))
    (cell.folder / "log.csv").write_text("step,epoch,loss,gradient_norm,learning_rate,a,b,seconds\n" + steps)
    if more.get("outcome") == "done":
        (cell.folder / "done.json").write_text(json.dumps({"seconds": 3600.0, "host": "n1"}))
    elif not more:
        (cell.folder / "lease").write_text("")


@dataclass
class Timed:
    """What several runs of one command took, and whether any of them imported what it must not."""

    seconds: list[float]
    cpu: list[float]
    imported: str = ""


def timed(place: Place, arguments: Sequence[str], path: str, runs: int, logs: bool) -> Timed:
    """Runs a command in fresh processes, once more than is counted.

    Args:
        place: where.
        arguments: of ``python -m pipeline``.
        path: where programs are looked for.
        runs: how many count.
        logs: whether every run begins without the logs, and so without the submissions, of the ones before.

    """
    found = Timed([], [])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for run in range(runs + 1):
        if not logs:
            shutil.rmtree(place.folder / "logs", ignore_errors=True)
        for lease in (place.folder / "root").glob("*/*/lease"):
            os.utime(lease)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-c", COMMAND, *arguments]
        done = subprocess.run(command, cwd=place.folder, env=environment, capture_output=True, text=True)
        took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if not logs:
            _cancel()
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")
        if run:
            found.seconds.append(took)
            found.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        found.imported = done.stderr.splitlines()[-1].removeprefix("imported").strip()
    return found


def _cancel() -> None:
    """Takes the jobs of this benchmark out of a real SLURM's queue."""
    scheduler = Scheduler.here() if "SLURM_CONF" in os.environ else None
    if scheduler is not None:
        scheduler.cancel(job.id for job in scheduler.mine() if job.name.startswith(f"{PREFIX}.{NAME}."))


def measure(key: Mapping[str, Any], found: Timed, table: Table) -> None:
    """Writes and prints a line."""
    seconds = statistics.median(found.seconds)
    met = seconds <= TARGET and not found.imported
    line = {
        "seconds": seconds,
        "slowest": max(found.seconds),
        "cpu_seconds": statistics.median(found.cpu),
        "runs": len(found.seconds),
        "target": TARGET,
        "verdict": "met" if met else "NOT MET",
        "imported": found.imported or "none",
        "versions": f"{versions()}, submitit {version('submitit')}",
    }
    table.put(key, [line])
    slowest = f"at most {max(found.seconds):.2f}"
    print(f"{key['what']:<24}{key['scheduler']:<20}{seconds:6.2f} s, {slowest}  {line['verdict']}", flush=True)


def cases(config: Path) -> Iterator[tuple[str, list[str], bool]]:
    """What is timed, its arguments, and whether it needs the grid half done; otherwise it is new."""
    grid = str(config)
    yield "status", ["status", grid], True
    yield "run --dry-run", ["run", grid, "--dry-run"], True
    yield "run --dry-run, slurm", ["run", grid, "--dry-run", "--cluster", "slurm"], True
    yield "array distill", ["array", grid, "distill"], True
    yield "submission", ["run", grid, "--cluster", "slurm", "--no-check"], False


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures everything anew."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="time of looking and submitting")
    parser.add_argument("--cells", type=int, default=500, help="a multiple of 100")
    parser.add_argument("--runs", type=int, default=5, help="that count, of each command")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    table, heavy = Table(options.out / "launching.csv", COLUMNS, KEY), []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "git").mkdir()
        (folder / "git" / "git").symlink_to(str(shutil.which("git")))  # which says what code is submitted
        for half in (True, False):
            place = Place(folder / ("half" if half else "new"), options.cells)
            stages = dict.fromkeys(("distill", "evaluate", "aggregate"), SMALL)
            place.make({} if half else {"slurm": {"all": {"options": {"hold": True}}, **stages}})
            programs = place.programs()
            if half:
                half_done(place)
            else:
                ready(load(place.config), Store(place.folder / "root"))
            schedulers = {"none": str(folder / "git"), "stand-in": f"{programs}:{folder / 'git'}"}
            if "SLURM_CONF" in os.environ:
                said = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=True)
                schedulers[said.stdout.strip()] = os.environ["PATH"]
            for (what, words, on_half), (scheduler, path) in itertools.product(cases(place.config), schedulers.items()):
                if on_half != half or (scheduler == "none" and "slurm" in words):
                    continue
                found = timed(place, words, path, options.runs, logs=half)
                key = {"what": what, "cells": options.cells, "scheduler": scheduler, "hardware": hardware("cpu")}
                measure(key, found, table)
                heavy += [f"{what} imports {found.imported}"] if found.imported else []
    if heavy:
        raise SystemExit("; ".join(heavy))


if __name__ == "__main__":
    main()
