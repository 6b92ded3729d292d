"""Where every cell of an experiment is: done, running, pending, failed, begun or missing, and why.

The artifact on disk is believed first, then the lease of who is at it, then the scheduler, then the records of past
attempts. Nothing is computed, and nothing written but a cache: the digests of local files that had none yet.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.config import Distill, Evaluate, Experiment
from pipeline.launch.outputs import EXPLAINED, Outputs, says, tail, unbegun
from pipeline.launch.scheduler import JobState, stuck
from pipeline.launch.stages import MODULES, StageName, graph, name_of, stage_of
from pipeline.store import Cell, Store
from pipeline.store.atomic import read_json
from pipeline.store.attempts import Attempt, attempts_of
from pipeline.store.failures import NO_MEMORY, OUT_OF_MEMORY
from pipeline.store.predictions import predictions
from pipeline.store.usage import UNUSED_GPUS

State = Literal["done", "running", "pending", "failed", "partial", "missing"]
_WORST: tuple[State, ...] = ("failed", "missing", "partial", "pending", "running", "done")
_SEEDS: dict[str, Any] = {"seed": True, "runtime": True}
for _ in range(8):  # chains longer than that are told apart by the seeds of their beginnings, too
    _SEEDS = {"seed": True, "runtime": True, "source": _SEEDS, "parent": _SEEDS, "data": _SEEDS}


@dataclass(frozen=True)
class Row:
    """One artifact.

    Attributes:
        stage: that makes it.
        name: ``<stage>/<folder>``.
        cells: its positions in the grid.
        state: ``done``, ``running``, ``pending`` (in the scheduler's queue), ``failed``, ``partial`` (begun, nobody is
            at it) or ``missing``.
        reason: of a failure, in few words, such as ``out of memory`` or the exception's type; else ``None``.
        why: one line about the state.
        progress: outer steps, or initialisations, that are saved.
        total: of how many.
        seconds: spent so far, all attempts together.
        seconds_left: estimated from the running attempt.
        slot_seconds: left of the job's time limit.
        attempts: how often it was begun.
        interrupted: how many of these were pre-empted, stopped or killed.
        job: id of the job that has it, or of the one that last had it.
        node: where it runs or last ran.
        log: file of the last attempt's output.
        gpu: name of the GPU that the last attempt used.
        kind: equal for artifacts that differ in seeds only.
        predicted: seconds that ``python -m pipeline estimate`` expects of it in all.

    """

    stage: StageName
    name: str
    cells: tuple[int, ...]
    state: State = "missing"
    reason: str | None = None
    why: str = ""
    progress: int | None = None
    total: int | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    slot_seconds: float | None = None
    attempts: int = 0
    interrupted: int = 0
    job: str | None = None
    node: str | None = None
    log: str | None = None
    gpu: str | None = None
    kind: str = ""
    predicted: float | None = None


@dataclass(frozen=True)
class _Found:
    """What lies in a cell's folder."""

    done: bool = False
    begun: bool = False
    last: Attempt | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the row


def rows(
    experiment: Experiment,
    store: Store,
    jobs: Mapping[str, JobState],
    tables: Mapping[str, Sequence[str]],
    outputs: Outputs | None = None,
) -> list[Row]:
    """Every artifact of the experiment once, stage by stage, in the order of the grid.

    Args:
        experiment: with hub revisions resolved where they can be.
        store: of the artifacts.
        jobs: what the scheduler knows of the jobs in ``tables``; may be empty.
        tables: name of an artifact -> ids of the jobs that were ever given it, the oldest first.
        outputs: what these jobs printed.

    """
    nodes = graph(experiment, store)
    everything = [
        (stage, name, node.cell, node.positions)
        for stage in MODULES
        for name, node in nodes.items()
        if stage_of(node.cell.config) == stage
    ]
    look = _Look(store, {name for stage in MODULES for name in _names(store.root / stage, f"{stage}/")})
    with ThreadPoolExecutor(8) as pool:  # a shared file system answers late, but many questions at once
        found = list(pool.map(look, (cell for _, _, cell, _ in everything)))
    made: dict[str, Row] = {}
    expected = {name: one.seconds for name, one in predictions(store.root).items()}
    for (stage, name, cell, cells), what in zip(everything, found, strict=True):
        kind = zlib.crc32(cell.config.model_dump_json(exclude=_SEEDS).encode())
        row = Row(stage, name, tuple(cells), kind=f"{kind:08x}", predicted=expected.get(name), **what.facts)
        before = [made[one] for one in reversed(nodes[name].inputs)]
        source = min(before, key=lambda one: _WORST.index(one.state), default=None)
        made[name] = _judged(row, what, _Known(jobs, tables.get(name, ()), outputs or Outputs()), source)
    return list(made.values())


class _Look:
    """Reads what lies in a cell's folder."""

    def __init__(self, store: Store, there: set[str]) -> None:
        self.store, self.there, self.sizes = store, there, dict[str, int]()

    def __call__(self, cell: Cell) -> _Found:
        if name_of(cell) not in self.there:
            return _Found()
        names = _names(cell.folder)
        done = read_json(cell.folder / "done.json") if "done.json" in names else None
        attempts = attempts_of(cell.folder) if "attempts" in names else []
        facts: dict[str, Any] = {"attempts": len(attempts)}
        facts["interrupted"] = sum(attempt.outcome in ("stopped", "killed") for attempt in attempts)
        if attempts:
            last = attempts[-1]
            facts |= {"node": last.host, "log": last.log, "job": last.job, "gpu": last.gpu}
            running = time.time() - _moment(last.began) if last.outcome is None else 0.0
            if last.outcome is None and last.gpu is None and says(last.log, UNUSED_GPUS):
                facts["why"] = "on the CPU: torch sees none of its GPUs"
            facts["seconds"] = round(sum(attempt.seconds or 0.0 for attempt in attempts) + running, 3)
        if done is not None:
            facts |= {"seconds": float(done["seconds"]), "node": done["host"]}
        else:
            facts |= self._progress(cell, names, attempts[-1] if attempts else None)
        return _Found(done is not None, "config.json" in names, attempts[-1] if attempts else None, facts)

    def _progress(self, cell: Cell, names: set[str], last: Attempt | None) -> dict[str, Any]:
        """What is saved of how much, and how long the rest takes at the pace of the running attempt."""
        done, total, before = 0, 0, 0 if last is None else last.rows
        path = cell.folder / ("log.csv" if isinstance(cell.config, Distill) else "results.csv")
        if path.name not in names:
            return {}
        if isinstance(cell.config, Distill):
            total = cell.config.method.planned_steps(self._rows(cell.config)) or 0
            done = _last_step(path) if total else 0
        elif isinstance(cell.config, Evaluate):
            total = cell.config.runs
            lines = path.read_text().splitlines()[1:]
            done = len({line.partition(",")[0] for line in lines})
            before = before * done // max(1, len(lines))
        if not total or last is None or last.outcome is not None or done <= before:
            return {"progress": done, "total": total} if total else {}
        saved = path.stat().st_mtime
        pace = (saved - _moment(last.began)) / (done - before)
        left = max(0.0, (total - done) * pace - (time.time() - saved))
        return {"progress": done, "total": total, "seconds_left": round(left, 1)}

    def _rows(self, config: Distill) -> int:
        """Of the training split."""
        folder = self.store.cell(config.source).folder
        if folder.name not in self.sizes:
            manifest = read_json(folder / "manifest.json")
            self.sizes[folder.name] = 0 if manifest is None else int(manifest["sizes"]["train"])
        return self.sizes[folder.name]


@dataclass(frozen=True)
class _Known:
    """What is known of a cell's jobs: by the scheduler, by the submissions (the ids), by what they printed."""

    jobs: Mapping[str, JobState]
    ids: Sequence[str]
    outputs: Outputs


def _judged(row: Row, found: _Found, known: _Known, source: Row | None) -> Row:
    """The row with its state: by the artifact, its lease, the scheduler, the records, in this order."""
    last, jobs, ids = found.last, known.jobs, known.ids
    if found.done:
        return replace(row, state="done")
    if last is not None and last.outcome is None:
        at = jobs.get(last.job or "")
        return replace(row, state="running", slot_seconds=at.seconds_left if at else None)
    live = next((jobs[job] for job in reversed(ids) if job in jobs and jobs[job].live), None)
    if live is not None:
        row = replace(row, job=live.id, node=live.node or row.node)
        ours = last is not None and (last.job, last.restarts) == (live.id, live.restarts)
        if ours and live.state in ("SUSPENDED", "STOPPED"):
            return replace(row, state="running", why="suspended")
        if not stuck({live.id: live}) and not (ours and live.state == "RUNNING"):
            return replace(row, state="pending", why=_waits(row.stage, live, source))
    latest = live or (jobs.get(ids[-1]) if ids else None)
    if last is None and latest is None and ids and jobs:
        gone = "its job left the queue before it began"
        row = replace(row, why=gone, job=ids[-1])
        if (said := known.outputs.last_words(ids[-1])) is not None:
            return replace(row, state="failed", reason="never began", why=f"{gone}; {said[1]}", log=str(said[0]))
    if latest is not None:
        row = replace(row, job=latest.id)
    return _ended(row, found, latest, known, source)


def _waits(stage: StageName, job: JobState, source: Row | None) -> str:
    if job.state == "RUNNING":
        return "its job runs and has not reached it yet"
    return f"waits for {_said(stage, source)}" if job.reason == "Dependency" and source is not None else job.waits


def _said(stage: StageName, source: Row) -> str:
    return "its parent" if source.stage == stage else f"its {source.stage} cell"


def _ended(row: Row, found: _Found, latest: JobState | None, known: _Known, source: Row | None) -> Row:
    """The row of a cell that nobody is at.

    Args:
        row: without its state.
        found: in the cell's folder.
        latest: the job that it was given to last, where that is known.
        known: of all its jobs.
        source: the row of a cell that it reads: one that failed, else one that is not done, the set first.

    """
    last, given = found.last, bool(known.ids)
    if last is not None and last.outcome == "failed":
        kind = last.reason if last.reason in NO_MEMORY else (last.exception or "exception").partition(":")[0]
        return replace(row, state="failed", reason=kind, why=last.failure or "")
    never = last is None or (latest is not None and last.job not in (None, latest.id))
    if never and source is not None and source.state == "failed":
        why = f"{_said(row.stage, source)} failed"
        return replace(row, state="failed" if given else "missing", reason="source failed" if given else None, why=why)
    if never and latest is not None and latest.live:
        return replace(row, state="failed", reason="never starts", why=f"its job {latest.waits}")
    if never and latest is not None and latest.state != "COMPLETED":
        return _never_began(row, latest, known.outputs)
    if last is not None:
        return _broken_off(row, last, known.jobs.get(last.job or ""), known.outputs)
    return replace(row, state="partial", why="begun") if found.begun else row


def _never_began(row: Row, job: JobState, outputs: Outputs) -> Row:
    """The row of a cell whose job ended before it came to it; the job's own output may say why."""
    said = outputs.last_words(job.id)
    row = replace(row, state="failed", reason=job.end_reason, why=unbegun(job, said))
    return row if said is None else replace(row, log=str(said[0]))


def _broken_off(row: Row, last: Attempt, job: JobState | None, outputs: Outputs) -> Row:
    """The row of a cell whose last attempt was stopped or killed, and that no job will go on with."""
    reason = None if job is None or job.live or job.state == "COMPLETED" else job.end_reason
    if last.outcome == "killed" and outputs.out_of_memory(last, reason):
        reason = OUT_OF_MEMORY
    often = f", interrupted {row.interrupted} times" if row.interrupted > 1 else ""
    if reason in EXPLAINED:
        return replace(row, state="failed", reason=reason, why=f"{reason}{often}")
    if last.outcome == "killed" and reason is not None:
        hint = ", as it happens when memory runs out" if "SIGKILL" in reason else ""
        return replace(row, state="failed", reason=reason, why=f"{reason}{hint}{often}")
    how = "killed without a word" if last.outcome == "killed" else f"stopped by {last.reason}"
    return replace(row, state="partial", why=f"{how} on {last.host}{often}")


def _names(folder: Path, prefix: str = "") -> set[str]:
    try:
        return {prefix + name for name in os.listdir(folder)}
    except OSError:
        return set()


def _moment(written: str) -> float:
    return datetime.fromisoformat(written).timestamp()


def _last_step(log: Path) -> int:
    """The step of the last whole line of a ``log.csv``, whose first column it is."""
    step = tail(log, 1000).rpartition("\n")[0].rpartition("\n")[2].partition(",")[0]
    return int(step) if step.isdigit() else 0
