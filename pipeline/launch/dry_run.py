"""What a run would do, before it does it: cells and states, arrays and what they ask for, what fits nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import Experiment
from pipeline.config.cluster import Cluster
from pipeline.config.resources import written as option
from pipeline.errors import StageError
from pipeline.launch.display import left, text
from pipeline.launch.plan import plan
from pipeline.launch.queue import live_of, startable
from pipeline.launch.refusals import mended, refused, short_slots
from pipeline.launch.scheduler import JobState, Scheduler
from pipeline.launch.stages import name_of
from pipeline.launch.status import Row, rows
from pipeline.launch.submission import queued
from pipeline.launch.submitter import Executor
from pipeline.store import Store
from pipeline.store.predictions import predictions


@dataclass(frozen=True)
class Described:
    """What a run would do, for people.

    Attributes:
        text: several lines.
        sound: whether SLURM, where it is asked, answers and would take all of it.

    """

    text: str
    sound: bool = True


def described(experiment: Experiment, store: Store, cluster: Cluster, executor: Executor) -> Described:
    """What a run would do, for a cluster with what its jobs ask for; nothing is submitted.

    Args:
        experiment: as in its file.
        store: of the artifacts.
        cluster: what jobs ask for.
        executor: who would run the cells: this process, processes of this machine, or SLURM.

    """
    found = rows(experiment, store, {}, {})
    remaining = left(found)
    lines = [f"{experiment.name}: {len(experiment.computed)} cells", text(found, everything=executor == "debug"), ""]
    lines += [f"{stage}: {what}" for stage, what in remaining.items()]
    if executor == "debug":
        return Described("\n".join(lines))
    scheduler, jobs, unknown, sound = _queue() if executor == "slurm" else (None, [], "", True)
    live = live_of(cluster.logs_folder, store.root, startable(queued(cluster.logs_folder, jobs)))
    limit = None if scheduler is None else scheduler.max_array_size()
    planned = plan(experiment, store, cluster, live, limit=limit)
    if executor == "local":
        at_once = f"on this machine, {cluster.local.at_once} at a time"
        whole = [*lines, "", planned.text(requests=False), *([at_once] if planned.arrays else [])]
        return Described("\n".join(whole))
    gpus = {name_of(cell): array.request.gpus or 0 for array in planned.arrays for cell in array.cells}
    seconds = [one * gpus.get(name, 0) for what in remaining.values() for name, one in what.seconds.items()]
    hours = f"about {sum(seconds) / 3600:.1f}" if any(seconds) else "nothing measured yet"
    if any(seconds) and _on_cpu(found, store, gpus):
        anew = experiment.typed.command("estimate", "--again")
        hours += f", measured on a CPU; for a GPU: srun --gpus=1 --cpus-per-task=4 --mem=16G {anew}"
    lines.append(f"GPU-hours, from the cells done so far and what was estimated: {hours}")
    if cluster.prepares_here:
        here = [array.name for array in planned.of("prepare")]
        planned.arrays = [array for array in planned.arrays if array.stage != "prepare"]
        for array in planned.arrays:
            array.after = tuple(name for name in array.after if name not in here)
    lines += ["", planned.text()]
    if planned.arrays:
        idle = cluster.fits_nothing(experiment.cells)
        lines += [f"note: {rule}, fits no cell of {experiment.name}" for rule in idle]
        lines += _last_jobs(cluster)
        lines += [f"warning: {line}" for line in short_slots({one.name: one.request for one in planned.arrays})]
    lines += [f"note: {unknown}"] if unknown else []
    if planned.arrays and scheduler is not None:
        asked = {one.name: one.request for one in planned.arrays}
        asked["sweep, aggregate"] = cluster.request(None, "aggregate")
        if reason := "; ".join(refused(asked)):
            sound = False
            lines.append(f"SLURM would refuse {reason}; {mended(reason, experiment.typed.cluster_file)}")
    return Described("\n".join(lines), sound)


def _on_cpu(found: Sequence[Row], store: Store, gpus: Mapping[str, int]) -> bool:
    """Whether nothing that the hours follow from was measured on a GPU: cells that are done, predictions of others."""
    used = [row.gpu for row in found if row.state == "done" and row.stage != "prepare"]
    return not any(used) and all(
        one.gpu_peak_mb is None for name, one in predictions(store.root).items() if gpus.get(name)
    )


def _queue() -> tuple[Scheduler | None, list[JobState], str, bool]:
    """SLURM where it answers, this user's jobs, what is not known where it does not, and whether that is no trouble."""
    scheduler = Scheduler.here()
    if scheduler is None:
        why = "there is no SLURM here, so what it would refuse is not known; type this on a log-in node"
        return None, [], why, True
    try:
        return scheduler, scheduler.mine(), "", True
    except StageError as error:
        return None, [], f"{error}; this plan knows neither what is in the queue nor what would be refused", False


def _last_jobs(cluster: Cluster) -> Iterator[str]:
    request = cluster.request(None, "aggregate")
    options = " ".join(option(name, value) for name, value in request.resources().items())
    yield f"sweep: 1 job, after all that distil: cancels what waits for a cell that failed: {options}"
    yield f"aggregate: 1 job, after sweep and all that evaluate: tables and figures: {options}"
