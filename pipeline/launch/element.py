"""What a job runs: one element of an array, ``python -m pipeline.launch SUBMISSION ARRAY INDEX``.

It never trusts the scheduler to know what became of a cell: the artifact, its lease and its attempts say that. A job
that starts again finds what is done and does the rest; one whose cells are all done ends at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import stopping
from pipeline.errors import StageError
from pipeline.launch.requeue import due, requeue
from pipeline.launch.running import led, run_stage
from pipeline.launch.stages import MODULES, StageName, name_of
from pipeline.launch.submission import Row, Submission
from pipeline.parallel import Ranks
from pipeline.store import Cell, Store
from pipeline.store.history import TOO_SHORT


def run_element(folder: str, array: str, index: int | None = None, only: int | None = None) -> None:
    """Computes the cells of one element; raises where one of them failed, so that the scheduler says so too.

    Args:
        folder: the submission's.
        array: its name.
        index: in the array; by default the one that SLURM gave this job.
        only: a single one of its cells.

    Raises:
        StageError: cells failed; their reasons.
        Stopped: the job has to end before its cells are done; they are saved. It was requeued where that is due.
        SystemExit: likewise, in a job of submitit's, whose log would show a planned stop as a traceback.

    """
    job = only is None and os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
    with stopping.listen():  # submitit's own handlers would take a signal for a time-out of theirs
        try:
            _compute(Submission.read(Path(folder)), array, index, only)
        except stopping.Stopped as stopped:
            with stopping.polled():
                if job:  # before the requeue, which kills this process
                    print(f"stopped by {stopped.signal}; what was done is saved", file=sys.stderr, flush=True)
                if only is None:  # else the job is the parent's to requeue
                    _requeue_if_due(stopped.signal)
                if job:
                    raise SystemExit(1) from None  # what Python ends with after any exception
            raise
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        # All is done: a signal that ends the interpreter before it ends by itself would make this a failed job.
        for name in stopping.SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _compute(submission: Submission, array: str, index: int | None, only: int | None) -> None:
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0)) if index is None else index
    cells = submission.cells(array, index)
    row = submission.rows[array]
    if only is None and row.together > 1 and len(cells) > 1:
        _side_by_side(submission, row, index, cells)
    elif cells:
        _one_after_another(submission, row.stage, cells if only is None else [cells[only]])


def _one_after_another(submission: Submission, stage: str, cells: list[Cell]) -> None:
    store, failed = Store(submission.root), {}

    def work(ranks: Ranks) -> None:
        for cell in cells:
            if cell.state == "done":
                continue
            if cell.too_short:  # the others of this job are still to be done
                failed[name_of(cell)] = TOO_SHORT
                continue
            with _logged(submission, cell):
                failed.update(run_stage([cell], _stage(stage), store, ranks, check=submission.check).failed)

    if stage != "prepare":  # compute nodes have no network
        os.environ["HF_HUB_OFFLINE"] = "1"
    led(work)
    if failed:
        raise StageError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))


def _side_by_side(submission: Submission, row: Row, index: int, cells: list[Cell]) -> None:
    """Each cell in a process of its own, some at a time on the job's GPU; a signal goes on to all of them."""
    command = [sys.executable, "-m", "pipeline.launch", str(submission.folder), row.name, str(index), "--cell"]
    waiting, failed = list(range(len(cells))), []
    running: dict[subprocess.Popen[bytes], int] = {}
    told: set[subprocess.Popen[bytes]] = set()
    with stopping.polled():
        while waiting or running:
            while waiting and len(running) < row.together and not stopping.requested():
                number = waiting.pop(0)
                # a session of its own: a signal to this job's processes must not come twice
                running[subprocess.Popen([*command, str(number)], start_new_session=True)] = number
            if stopping.requested():
                waiting.clear()
                for process in running.keys() - told:  # once: it saves, and then closes what it has open
                    process.terminate()
                    told.add(process)
            for process in [process for process in running if _over(process)]:
                failed += [running[process]] if process.returncode else []
                del running[process]
    stopping.check()
    if failed:
        raise StageError(f"failed: {', '.join(name_of(cells[number]) for number in sorted(failed))}")


def _requeue_if_due(name: str) -> None:
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    if first and due(name):
        requeue()


def _over(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return False
    return True


@contextmanager
def _logged(submission: Submission, cell: Cell) -> Iterator[None]:
    """Standard output and error of everything below, libraries and children included, go to this attempt's own log."""
    folder = submission.logs / submission.experiment / cell.folder.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name.split(".")[-2]) for path in folder.glob(f"{cell.folder.name}.*[0-9].log")]
    path = folder / f"{cell.folder.name}.{max(numbers, default=0) + 1}.log"
    os.environ["TEXTDD_LOG"] = str(path)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, stream in enumerate(kept, 1):
            os.dup2(stream, number)
            os.close(stream)
        os.close(log)


def _stage(name: str) -> StageName:
    return next(stage for stage in MODULES if stage == name)
