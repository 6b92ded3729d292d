"""Elements as processes of this machine, a few at once: what SLURM does for a cluster, for a workstation."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from pipeline import stopping
from pipeline.launch import forks
from pipeline.launch.machine import cores
from pipeline.launch.submission import Row, Submission

Process = subprocess.Popen[bytes] | forks.Fork
_PATIENCE = 60.0  # seconds that children have to save before they are killed


@dataclass
class Ended:
    """Elements by how they ended: well, badly, or not started because the one before them ended badly."""

    well: set[tuple[str, int]] = field(default_factory=set)
    badly: set[tuple[str, int]] = field(default_factory=set)
    skipped: set[tuple[str, int]] = field(default_factory=set)

    def __contains__(self, element: tuple[str, int]) -> bool:
        return element in self.well or element in self.badly or element in self.skipped


def supervise(submission: Submission, at_once: int) -> Ended:
    """Runs every element of a submission, each in a process of its own, in an order that its arrays allow.

    The first ones are new processes; meanwhile, where there are more, another imports what later ones are forks of.

    Args:
        submission: its arrays come parents first.
        at_once: processes at a time.

    Returns:
        How each element ended; the reasons are with the cells.

    Raises:
        Stopped: this process was told to stop; the children were, too, and have saved.

    """
    waiting = [(row.name, index) for row in submission.rows.values() for index in range(len(row.elements))]
    running: dict[tuple[str, int], Process] = {}
    ended = Ended()
    environment = environment_of(submission) | _threads(at_once)
    more = sum(submission.rows[array].stage != "prepare" for array, _ in waiting) > at_once
    template = forks.Template(environment) if more and forks.possible() else None
    with stopping.listen(), stopping.polled():
        try:
            while waiting or running:
                stopping.check()
                for element in list(_startable(submission, waiting, ended))[: at_once - len(running)]:
                    waiting.remove(element)
                    running[element] = _begun(submission, element, environment, template)
                for element in [element for element, process in running.items() if process.poll() is not None]:
                    _note(submission, element, running.pop(element), ended)
                time.sleep(0.05)
        except stopping.Stopped:
            _stop(running)
            raise
        finally:
            if template is not None:
                template.close()
    return ended


def _begun(
    submission: Submission, element: tuple[str, int], environment: dict[str, str], template: forks.Template | None
) -> Process:
    """A fork where there is something to fork; but stage 1 looks things up on the hub, which forks do not."""
    array, index = element
    if template is not None and submission.rows[array].stage != "prepare" and template.ready():
        with suppress(OSError):  # it ended: new processes do as well
            return template.start(submission.folder, array, index)
    return subprocess.Popen(command(submission, array, index), env=environment, start_new_session=True)


def command(submission: Submission, array: str, index: int) -> list[str]:
    """The command line of an element."""
    return [sys.executable, "-m", "pipeline.launch", str(submission.folder), array, str(index)]


def environment_of(submission: Submission) -> dict[str, str]:
    """This process's environment, with the submission's copy of the code before everything else."""
    path = os.pathsep.join(part for part in (str(submission.folder / "code"), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _threads(at_once: int) -> dict[str, str]:
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, int(cores()) // at_once))}


def _startable(submission: Submission, waiting: list[tuple[str, int]], ended: Ended) -> Iterator[tuple[str, int]]:
    """The waiting elements whose parents have ended; those whose parent ended badly are skipped here."""
    for array, index in list(waiting):
        row = submission.rows[array]
        if row.parent_of(index) in ended.badly | ended.skipped:
            waiting.remove((array, index))
            ended.skipped.add((array, index))
        elif not row.elements[index]:
            waiting.remove((array, index))
            ended.well.add((array, index))
        elif _free(submission, row, index, ended):
            yield array, index


def _free(submission: Submission, row: Row, index: int, ended: Ended) -> bool:
    parent = row.parent_of(index)
    if parent is not None and parent not in ended:
        return False
    return all((name, number) in ended for name in row.after for number in range(len(submission.rows[name].elements)))


def _note(submission: Submission, element: tuple[str, int], process: Process, ended: Ended) -> None:
    (ended.badly if process.returncode else ended.well).add(element)
    array, index = element
    how = "failed" if process.returncode else "done"
    for name in submission.rows[array].elements[index]:
        print(f"{name}: {how}", file=sys.stderr, flush=True)


def _stop(running: dict[tuple[str, int], Process]) -> None:
    for process in running.values():
        process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in running.values():
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
