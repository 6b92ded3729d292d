"""An experiment handed to a cluster: what is missing is planned, written down, submitted; nothing runs twice.

Only one submitter of an experiment plans at a time; the next one finds the first one's jobs by their names, whether or
not the first one lived to write their ids down.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import SoftFileLease, Timeout

from pipeline.config import Experiment, load
from pipeline.config.cluster import Cluster
from pipeline.config.cluster_file import load_cluster, root_of
from pipeline.config.where import restricted
from pipeline.errors import InputError, StageError
from pipeline.launch.element import run_element
from pipeline.launch.finish import aggregate, sweep
from pipeline.launch.known import remember
from pipeline.launch.local import Ended, supervise
from pipeline.launch.mistakes import refuse_mistakes
from pipeline.launch.outputs import Outputs
from pipeline.launch.plan import Live, Plan, plan
from pipeline.launch.queue import adopt, below, live_of, orphans, settle_kills, settle_unbegun, startable, waited_for
from pipeline.launch.refusals import short_slots
from pipeline.launch.running import run_stage
from pipeline.launch.scheduler import Scheduler
from pipeline.launch.slurm import Slurm
from pipeline.launch.stages import MODULES, StageName, pin, stage_cells
from pipeline.launch.submission import Queued, Submission, all_of, queued, submissions
from pipeline.report.files import OUT, last
from pipeline.store import Store
from pipeline.store.atomic import forbidden, is_forbidden

if TYPE_CHECKING:
    from submitit import Job

Executor = Literal["debug", "local", "slurm"]


@dataclass
class Submitted:
    """What became of a call.

    Attributes:
        plan: the arrays, and what was left alone.
        submission: where they are written down; ``None`` where there was nothing to submit.
        jobs: submitit's jobs by array name, with ``sweep`` and ``aggregate``.

    """

    plan: Plan
    submission: Submission | None = None
    jobs: dict[str, list[Job[Any]]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [str(self.plan)]
        if self.submission is not None:
            ids = {name: jobs[0].job_id.partition("_")[0] for name, jobs in self.jobs.items()}
            lines += [f"  {name:<14} job {job}" for name, job in ids.items()]
            lines.append(f"written down in {self.submission.folder}")
        return "\n".join(lines)


def submit(
    config: str | Path,
    cluster: Executor = "slurm",
    *,
    settings: Sequence[str] = (),
    only: Sequence[str] = (),
    root: str | Path | None = None,
    out: Path = OUT,
    file: str | Path | None = None,
) -> list[Job[Any]]:
    """Submits what is missing of an experiment and returns at once, for notebooks and scripts.

    Args:
        config: the experiment's YAML file.
        cluster: ``slurm``, ``local`` (one background process that runs a few cells at a time) or ``debug`` (jobs that
            run in this process when their result is asked for).
        settings: ``dotted.key=value``, as ``--set``.
        only: likewise, as ``--only``: no other cells are computed.
        root: folder of all artifacts; by default ``$TEXTDD_ROOT``, or else what the cluster's file says.
        out: folder of tables and figures.
        file: the cluster's file, by default ``configs/cluster.yaml``.

    Returns:
        submitit's jobs; none where nothing is missing. What a job computes is in the store, not in its result.

    Raises:
        InputError: a mistake in one of the files, also one that only the tables would show (``report``), one text in
            place of a list of them, or no SLURM here.
        StageError: SLURM refused a job.

    """
    for name, given in (("settings", settings), ("only", only)):
        if isinstance(given, str):
            raise InputError(f"{name}: a list is needed, not one text; write {name}=[{given!r}]")
    site = load_cluster(file)
    store = Store(root_of(root, site))
    experiment = restricted(load(config, settings), only)
    refuse_mistakes(experiment)
    places = {"root": None if root is None else str(root), "cluster_file": None if file is None else str(file)}
    experiment = experiment.model_copy(update={"typed": experiment.typed.model_copy(update=places)})
    experiment = pin(experiment, store)
    if cluster == "slurm":
        return [job for jobs in to_slurm(experiment, store, site, out).jobs.values() for job in jobs]
    submission = written(experiment, store, site, out)
    if submission is None:
        return []
    if cluster == "local":
        from submitit import LocalExecutor

        executor = LocalExecutor(folder=submission.folder / "jobs")
        executor.update_parameters(timeout_min=7 * 24 * 60)
        return [executor.submit(run_locally, str(submission.folder), site.local.at_once)]
    from submitit import DebugExecutor

    debug = DebugExecutor(folder=submission.folder / "jobs")
    elements = [(row.name, index) for row in submission.rows.values() for index in range(len(row.elements))]
    return [debug.submit(run_element, str(submission.folder), array, index) for array, index in elements]


def written(
    experiment: Experiment, store: Store, cluster: Cluster, out: Path, *, check: bool = True
) -> Submission | None:
    """What is missing of an experiment as a submission for this machine; ``None`` where nothing is."""
    remember(experiment, store)
    planned = plan(experiment, store, cluster, Live())
    if not planned.arrays:
        return None
    return Submission.new(experiment, store, cluster.logs_folder, planned, out, check=check)


def run_locally(folder: str, at_once: int) -> None:
    """Every element of a submission, then its tables.

    Raises:
        InputError: no cell has results.
        StageError: cells failed, or another process of this machine is at them.

    """
    submission = Submission.read(Path(folder))
    ended = supervise(submission, at_once)
    aggregate(folder)
    _check(ended, submission.whole)


def locally(experiment: Experiment, store: Store, cluster: Cluster, out: Path, *, check: bool = True) -> None:
    """Runs what is missing in processes of this machine, a few at a time, then makes the tables.

    Raises:
        InputError: no cell has results.
        StageError: cells failed, or another process of this machine is at them.
        Stopped: told to stop; what the cells had done is saved.

    """
    submission = written(experiment, store, cluster, out, check=check)
    ended = Ended() if submission is None else supervise(submission, cluster.local.at_once)
    from pipeline import stage4_aggregate

    stage4_aggregate.show(stage4_aggregate.run(experiment, store, out))
    _check(ended, experiment)


def _check(ended: Ended, experiment: Experiment) -> None:
    if ended.badly:
        raise StageError(f"{len(ended.badly)} jobs failed; {experiment.typed.command('status')} says why and where")


def to_slurm(experiment: Experiment, store: Store, cluster: Cluster, out: Path, *, check: bool = True) -> Submitted:
    """Submits what is missing of an experiment.

    Args:
        experiment: with hub revisions resolved.
        store: of the artifacts.
        cluster: what jobs ask for.
        out: folder of tables and figures, which the last job writes.
        check: whether jobs compare a hypergradient with its reference before they distil.

    Raises:
        InputError: there is no SLURM here.
        StageError: SLURM refused a job, or another submitter of this experiment is at it.

    """
    scheduler = Scheduler.here()
    if scheduler is None:
        raise InputError("--cluster slurm: there is no sbatch here; log in to the cluster, or type --cluster local")
    if shutil.which("srun") is None:
        raise InputError("--cluster slurm: submitit needs srun, which is not here; use plain sbatch (README)")
    remember(experiment, store)
    stages: tuple[StageName, ...] = ("prepare", "distill", "evaluate")
    if cluster.prepares_here:
        stages = stages[1:]
        outcome = run_stage(stage_cells(experiment, store, "prepare"), "prepare", store)
        print(f"prepare (here): {outcome}", file=sys.stderr)
    with alone(cluster.logs_folder, experiment.name):
        everything = queued(cluster.logs_folder, scheduler.mine())
        named = [one for one in everything if one.experiment == experiment.name]
        mine = below(cluster.logs_folder, store.root, named)
        adopt(cluster.logs_folder, mine)
        jobs = startable(everything)
        scheduler.cancel(one.job.id for one in mine if one not in jobs)
        live = live_of(cluster.logs_folder, store.root, jobs)
        if lost := orphans(experiment, store, live):
            scheduler.cancel(one.job.id for one in jobs if one.place in lost)
            jobs = [one for one in jobs if one.place not in lost]
            live = live_of(cluster.logs_folder, store.root, jobs)
        before = list(all_of(cluster.logs_folder, experiment.name, store.root))
        outputs = Outputs.of(before)
        settle_kills(experiment, store, scheduler, outputs)
        settle_unbegun(experiment, store, scheduler, before, outputs)
        planned = plan(experiment, store, cluster, live, stages=stages, limit=scheduler.max_array_size())
        waited = waited_for(experiment, store, live)
        for one in mine:  # also what is no longer in the grid
            if not one.finishes:
                waited.setdefault(one.stage, set()).add(one.job.id.partition("_")[0])
        follows = any(one.array == "aggregate" for one in mine)
        if not planned.arrays and (follows or not (any(waited.values()) or _outdated(experiment, store, out))):
            return Submitted(planned)
        for line in short_slots({array.name: array.request for array in planned.arrays}):
            print(f"warning: {line}", file=sys.stderr)
        submission = Submission.new(experiment, store, cluster.logs_folder, planned, out, check=check)
        submitted = _submit(Slurm(submission, cluster, experiment.typed.cluster_file), planned, waited)
        scheduler.cancel(one.job.id for one in mine if one.finishes)  # not before: a refusal would leave none
        return submitted


def _outdated(experiment: Experiment, store: Store, out: Path) -> bool:
    """Whether there are results that the tables do not have: that job was killed, or made them before these came."""
    results = [cell.folder / "done.json" for cell in stage_cells(experiment, store, "evaluate")]
    newest = max((file.stat().st_mtime for file in results if file.exists()), default=0.0)
    written = last(experiment.name, out)
    return newest > (written.stat().st_mtime if written.exists() else 0.0)


def tables(
    experiment: Experiment, store: Store, cluster: Cluster, scheduler: Scheduler | None, out: Path | None = None
) -> str:
    """Where the tables are, or that they lack results which are there, and what becomes of that; for ``status``.

    Args:
        experiment: with hub revisions resolved where they can be.
        store: of the artifacts.
        cluster: where submissions are written down.
        scheduler: that may have a job which makes the tables.
        out: their folder; by default the last submission's, or else where they are without one.

    """
    found = list(all_of(cluster.logs_folder, experiment.name, store.root))
    out = out or (found[-1].out if found else OUT)
    if not _outdated(experiment, store, out):
        return f"tables: {out / experiment.name}.*"
    mine: list[Queued] = []
    if found and scheduler is not None:
        with suppress(StageError):  # it does not answer, which `status` says by itself
            named = (one for one in queued(cluster.logs_folder, scheduler.mine()) if one.experiment == experiment.name)
            mine = below(cluster.logs_folder, store.root, named)
    jobs = [one.job for one in mine if one.array == "aggregate"]
    if jobs:
        return f"tables: job {jobs[-1].id} makes them ({jobs[-1].state.lower()})"
    logs = sorted(found[-1].folder.glob("jobs/aggregate/*.err")) if found else []
    said = f"; what the last try said: {logs[-1]}" if logs else ""
    return f"tables: older than the results, or none, in {out} (--out), and no job makes them: run makes them{said}"


def _submit(slurm: Slurm, planned: Plan, waited: Mapping[str, set[str]]) -> Submitted:
    """Submits the arrays of a plan and the two jobs that follow.

    Args:
        slurm: of the submission.
        planned: what to submit.
        waited: stage -> earlier jobs that the last two wait for, too.

    """
    submitted = Submitted(planned, slurm.submission)
    ids: dict[str, str] = {}  # array name -> job id; the name of an earlier submission's array is its job id
    for array in planned.arrays:
        parent = None if array.mirrors is None else ids.get(array.mirrors, array.mirrors)
        after = [ids.get(name, name) for name in array.after]
        size = 1 if array.mirrors is None else planned.sizes[array.mirrors]
        submitted.jobs[array.name] = slurm.array(array, parent, after, size)
        ids[array.name] = submitted.jobs[array.name][0].job_id.partition("_")[0]
    by_stage = {
        stage: [ids[array.name] for array in planned.of(stage)] + sorted(waited.get(stage, ())) for stage in MODULES
    }
    request = slurm.cluster.request(None, "aggregate")
    # not behind those that evaluate: of these some may never start, which is for the sweeper to see
    sweeper = slurm.single("sweep", sweep, request, [*by_stage["prepare"], *by_stage["distill"]])
    last = slurm.single("aggregate", aggregate, request, [sweeper.job_id, *by_stage["evaluate"]])
    submitted.jobs |= {"sweep": [sweeper], "aggregate": [last]}
    return submitted


@contextmanager
def alone(logs: Path, experiment: str) -> Iterator[None]:
    """Holds the right to submit jobs of an experiment.

    Raises:
        StageError: another process has held it for a minute, or the logs are somebody else's.

    """
    folder = submissions(logs, experiment)
    lock = SoftFileLease(folder / "lock", lease_duration=120.0)  # holds on a shared file system
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=60)
    except Timeout:
        raise StageError(f"another process has been submitting {experiment} for a minute; wait for it") from None
    except OSError as error:
        if is_forbidden(error):
            raise forbidden(folder, error) from error
        raise
    try:
        yield
    finally:
        lock.release()
