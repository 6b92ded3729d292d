"""What the queue has of an experiment: which of its jobs can still start, and which cells they will compute."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.config import Distill, Experiment, inputs
from pipeline.launch.outputs import Outputs, unbegun
from pipeline.launch.plan import Earlier, Live, Place
from pipeline.launch.scheduler import Scheduler, stuck
from pipeline.launch.stages import MODULES, StageName, name_of, stage_cells
from pipeline.launch.submission import Queued, Submission, jobs_of, submissions
from pipeline.store import Store
from pipeline.store.attempts import Attempt, last_of, note_unbegun, settle
from pipeline.store.failures import OUT_OF_MEMORY

_NOT_DONE = ("failed", "partial", "missing")
_NOT_STARTED = (126, 127)  # of a shell: there is no such program, or it cannot be executed


def startable(jobs: Iterable[Queued]) -> list[Queued]:
    """Without those that wait for what cannot happen any more."""
    jobs = list(jobs)
    never = set(stuck({one.job.id: one.job for one in jobs}))
    return [one for one in jobs if one.job.id not in never]


def below(logs: Path, root: Path, jobs: Iterable[Queued]) -> list[Queued]:
    """The jobs whose submissions have their artifacts below ``root``: one experiment may be run in several places."""
    jobs = list(jobs)
    stamps = {(one.experiment, one.stamp) for one in jobs}
    roots = {(name, stamp): Submission.read(submissions(logs, name) / stamp).root for name, stamp in stamps}
    return [one for one in jobs if roots[one.experiment, one.stamp] == root.resolve()]


def live_of(logs: Path, root: Path, jobs: Iterable[Queued]) -> Live:
    """The cells below ``root`` that jobs in the queue will compute, of whatever experiment: these share cells."""
    places: dict[str, Place] = {}
    arrays: dict[str, Earlier] = {}
    read: dict[tuple[str, str], Submission] = {}
    for one in jobs:
        key = one.experiment, one.stamp
        submission = read[key] if key in read else Submission.read(submissions(logs, one.experiment) / one.stamp)
        read[key] = submission
        if one.finishes or submission.root != root.resolve():
            continue
        row, place = submission.rows[one.array], one.place
        arrays[place.array] = Earlier(place.array, len(row.elements))
        places |= dict.fromkeys(row.elements[place.index], place)
    return Live(places, arrays)


def adopt(logs: Path, jobs: Iterable[Queued]) -> None:
    """Writes down the ids of jobs whose submitter did not live to do so."""
    arrays = {(one.experiment, one.stamp, one.array): one.job.id.partition("_")[0] for one in jobs if not one.finishes}
    for (experiment, stamp, array), job in arrays.items():
        submission = Submission.read(submissions(logs, experiment) / stamp)
        if submission.rows[array].job is None:
            submission.record(array, job)


def waited_for(experiment: Experiment, store: Store, live: Live) -> dict[str, set[str]]:
    """Stage -> jobs in the queue that compute cells of this experiment."""
    found: dict[str, set[str]] = {}
    for stage in MODULES if live.places else ():  # addresses of a large grid take a while
        names = (name_of(cell) for cell in stage_cells(experiment, store, stage))
        found[stage] = {live.places[name].array for name in names if name in live.places}
    return found


def orphans(experiment: Experiment, store: Store, live: Live) -> set[Place]:
    """Queued cells whose set or parent is neither there nor in a job: SLURM looks late at what they wait for."""
    found: dict[str, Place] = {}
    stages: tuple[StageName, ...] = ("distill", "evaluate")
    for cell in (each for stage in stages for each in stage_cells(experiment, store, stage)) if live.places else ():
        place = live.places.get(name_of(cell))
        for source in (store.cell(one) for one in inputs(cell.config) if isinstance(one, Distill) and place):
            queued = name_of(source) in live.places and name_of(source) not in found
            if place is not None and not queued and source.state in ("failed", "partial", "missing"):
                found[name_of(cell)] = place
    return set(found.values())


def settle_kills(experiment: Experiment, store: Store, scheduler: Scheduler | None, outputs: Outputs) -> None:
    """Writes down which killed attempts were out of memory: SLURM or the kernel knows that, not the process.

    What is submitted next asks for more then, and the reason stays known when SLURM has forgotten the job.

    Args:
        experiment: with hub revisions resolved.
        store: of its artifacts.
        scheduler: that may know how jobs ended.
        outputs: what jobs of earlier submissions printed.

    """
    killed: dict[str, list[tuple[Path, Attempt]]] = {}
    for stage in MODULES:
        for cell in stage_cells(experiment, store, stage):
            last = None if cell.state in ("done", "missing") else last_of(cell.folder)
            if last is not None and last.reason == "killed" and last.job is not None:
                killed.setdefault(last.job, []).append((cell.folder, last))
    states = scheduler.jobs(list(killed)) if scheduler is not None else {}
    for job, attempts in killed.items():
        end = states[job].end_reason if job in states else None
        for folder, attempt in attempts:
            if outputs.out_of_memory(attempt, end):
                settle(folder, attempt, OUT_OF_MEMORY)


def settle_unbegun(
    experiment: Experiment, store: Store, scheduler: Scheduler, submitted: Iterable[Submission], outputs: Outputs
) -> None:
    """Writes down jobs whose interpreter could not be started as failed attempts at their cells.

    The shell's exit statuses for that are the only early ends that count: other jobs may have waited for something.

    Args:
        experiment: with hub revisions resolved.
        store: of its artifacts.
        scheduler: that knows how jobs ended.
        submitted: earlier submissions of the experiment, the oldest first.
        outputs: what their jobs printed.

    """
    latest = {name: ids[-1] for name, ids in jobs_of(submitted).items()}
    cells = (cell for stage in MODULES if latest for cell in stage_cells(experiment, store, stage))
    waiting = [(cell, latest[name_of(cell)]) for cell in cells if name_of(cell) in latest and cell.state in _NOT_DONE]
    states = scheduler.jobs([job for _, job in waiting])
    for cell, job in waiting:
        state = states.get(job)
        if state is None or state.state != "FAILED" or state.code not in _NOT_STARTED:
            continue
        if all(attempt.job != job for attempt in cell.attempts()):
            said = outputs.last_words(job)
            note_unbegun(cell.folder, job, state.node, unbegun(state, said), None if said is None else str(said[0]))
