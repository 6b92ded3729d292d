"""The jobs of an experiment cancelled, and where it has none, those of the same file that were typed otherwise."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from pipeline.config import Experiment
from pipeline.config.cluster import Cluster
from pipeline.config.typed import Typed
from pipeline.errors import InputError, StageError
from pipeline.launch.queue import below
from pipeline.launch.scheduler import Scheduler, grouped
from pipeline.launch.stages import MODULES, name_of, stage_cells
from pipeline.launch.submission import Queued, Submission, queued, submissions
from pipeline.launch.submitter import alone
from pipeline.store import Store
from pipeline.store.atomic import read_json
from pipeline.store.attempts import last_of


def cancel_ours(experiment: Experiment, store: Store, cluster: Cluster) -> str:
    """Cancels every job of the experiment that is not over; says how many, and where there are none, which others are.

    Jobs of plain ``sbatch`` are nobody's submission: those that are at a cell are named, with what cancels them.

    Args:
        experiment: as it was submitted.
        store: of its artifacts; jobs that compute the same experiment below another root are others.
        cluster: where submissions are written down.

    Raises:
        InputError: there is no SLURM here.
        StageError: SLURM does not answer, or refuses.

    """
    scheduler = Scheduler.here()
    if scheduler is None:
        raise InputError("there is no SLURM here; Ctrl-C stops what runs on this machine")
    with alone(cluster.logs_folder, experiment.name):
        everything = queued(cluster.logs_folder, scheduler.mine())
        named = [one for one in everything if one.experiment == experiment.name]
        jobs = below(cluster.logs_folder, store.root, named)
        trouble = scheduler.cancel([one.job.id for one in jobs])
    if trouble is not None:
        raise StageError(f"SLURM did not cancel the jobs ({trouble}); try again")
    apart = _at_its_cells(experiment, store, {one.job.id for one in everything})
    others = [] if jobs else list(_variants(experiment, store.root.resolve(), cluster.logs_folder, everything))
    said = f"{len(jobs)} jobs cancelled"
    otherwise = "with other settings or another root there are jobs in the queue"
    return "\n  ".join([f"{said}; {otherwise}:" if others else said, *others, *apart])


def _at_its_cells(experiment: Experiment, store: Store, submitted: Collection[str]) -> list[str]:
    """A line about jobs that compute a cell now and that no submission explains: by plain ``sbatch``, or ``srun``."""
    found: dict[str, str] = {}
    for stage in MODULES:
        for cell in stage_cells(experiment, store, stage):
            last = None if cell.state != "running" else last_of(cell.folder)
            if last is not None and last.job is not None and last.job not in submitted:
                found[last.job] = name_of(cell)
    if not found:
        return []
    at = ", ".join(f"{job} at {name}" for job, name in found.items())
    command = shlex.join(["scancel", *grouped(found)])
    return [f"jobs that run did not submit are at its cells ({at}); type: {command}"]


def _variants(experiment: Experiment, root: Path, logs: Path, jobs: Iterable[Queued]) -> Iterator[str]:
    """Per experiment of the same file and root that has jobs in the queue: its name, how many, what cancels them."""
    found: dict[tuple[str, Path], list[Queued]] = {}
    for one in jobs:
        if _stem(one.experiment) == _stem(experiment.name):
            at = Submission.read(submissions(logs, one.experiment) / one.stamp).root
            found.setdefault((one.experiment, at), []).append(one)
    for (name, at), its in sorted(found.items()):
        folder = submissions(logs, name) / max(one.stamp for one in its)
        typed = _recorded(folder / "experiment.json")
        if typed is None:  # of another version of the code
            command = shlex.join(["scancel", *grouped(one.job.id for one in its)])
        else:
            given = {"cluster_file": experiment.typed.cluster_file}
            given["root"] = experiment.typed.root if at == root else str(at)
            command = typed.model_copy(update=given).command("cancel")
        yield f"{name}: {len(its)} jobs; type: {command}"


def _stem(name: str) -> str:
    """The file's part of an experiment's name."""
    stem, cut, _ = name.rpartition(".set-")
    return stem if cut else name


def _recorded(path: Path) -> Typed | None:
    """How the experiment of a submission was typed, where that is written down."""
    try:
        return Typed.model_validate((read_json(path) or {})["typed"], strict=False)
    except (KeyError, ValidationError):
        return None
