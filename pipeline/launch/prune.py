"""Superseded artifacts: what no experiment refers to any more and what nobody will read again, found, then removed.

Doubt keeps: what a job or a process may still need, what belongs to another user, and whatever this does not know.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import SoftFileLease, Timeout
from pydantic import ValidationError

from pipeline.config import Experiment, Stage, upstream
from pipeline.config.chain import STAGE_NAMES, STAGES
from pipeline.errors import InputError
from pipeline.launch.scheduler import JobState, Scheduler, ranges
from pipeline.launch.stages import MODULES, name_of
from pipeline.launch.submission import PREFIX, Submission
from pipeline.launch.submitter import alone
from pipeline.store import Store
from pipeline.store.atomic import read_json
from pipeline.store.attempts import LEASE_SECONDS, last_of, last_sign

Kind = Literal["artifact", "progress", "submission", "logs"]
LOGS_KEPT = 5  # of the attempts at one cell
_LONGEST_LOCAL = 7 * 86400.0  # seconds that a submission without jobs may be at work: what `submit` allows it
_SILENT = 10 * LEASE_SECONDS  # after which a lease is a left-over, whatever became of its holder
_CELL = re.compile(r".+-[0-9a-f]{8}")
_STAMP = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
_LOG = re.compile(r"(?P<cell>.+-[0-9a-f]{8})\.(?P<number>\d+)\.log")


@dataclass(frozen=True)
class Item:
    """Something that can go.

    Attributes:
        kind: of thing.
        paths: files and folders.
        what: it is, for people.
        why: it can go.
        size: in bytes.

    """

    kind: Kind
    paths: tuple[Path, ...]
    what: str
    why: str
    size: int


@dataclass(frozen=True)
class Found:
    """What can go, the largest first, and what would have gone if it were not in use."""

    items: tuple[Item, ...]
    kept: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{readable(item.size):>8}  {item.kind:<10}  {item.what}  ({item.why})" for item in self.items]
        lines += [f"{'kept':>8}  {line}" for line in self.kept]
        total = readable(sum(item.size for item in self.items))
        return "\n".join([*lines, f"{total} in {len(self.items)} places" if self.items else "nothing is superseded"])


def find(given: Sequence[Experiment], store: Store, logs: Path, scheduler: Scheduler | None) -> Found:
    """What is superseded; nothing is removed, and nothing written but digests of local files, which are a cache.

    Args:
        given: the experiments whose artifacts stay.
        store: of the artifacts.
        logs: folder of all logs.
        scheduler: to ask for this user's jobs; ``None`` where there is none.

    Raises:
        StageError: the scheduler does not answer.

    """
    jobs = [] if scheduler is None else scheduler.mine()
    return _Finder(given, store, logs, jobs, scheduler is not None).found()


def remove(
    found: Found, given: Sequence[Experiment], store: Store, logs: Path, scheduler: Scheduler | None
) -> tuple[int, list[str]]:
    """Removes what was found and, looking again while nobody can submit, still is; other arguments as :func:`find`.

    Returns:
        Bytes freed, and what could not go with the reason.

    Raises:
        StageError: somebody is submitting, or the scheduler does not answer; nothing was removed.

    """
    freed, left = 0, []
    with ExitStack() as stack:
        for folder in sorted(logs.glob("*/submissions")):
            stack.enter_context(alone(logs, folder.parent.name))
        still = {item.paths for item in find(given, Store(store.root), logs, scheduler).items}
        for item in found.items:
            try:
                why = _remove(item) if item.paths in still else "it is in use by now"
            except OSError as error:
                why = error.strerror or str(error)
            if why is None:
                freed += item.size
            else:
                left.append(f"{item.what}: {why}")
    return freed, left


def readable(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


@dataclass
class _Finder:
    given: Sequence[Experiment]
    store: Store
    logs: Path
    jobs: Sequence[JobState]
    asked: bool  # whether jobs are all there are
    items: list[Item] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    busy: dict[str, str] = field(default_factory=dict)  # name of a cell -> who has it

    def found(self) -> Found:
        """Everything."""
        cells = [(f"{stage}/{folder.name}", folder) for stage in MODULES for folder in self._cells(stage)]
        for name, folder in cells:
            sign = last_sign(folder)
            if sign is not None and time.time() - sign <= LEASE_SECONDS:
                last = last_of(folder)
                self.busy[name] = "somebody is at it" if last is None else f"{last.who} is at it"
        wanted = [*self.given, *self._submissions()]
        for name, folder in self._unwanted(cells, wanted):
            self._put("artifact", name, "no experiment refers to it", folder)
        whole = {item.what for item in self.items}
        for name, folder in cells:
            path = folder / "progress.pt"
            if path.exists() and (folder / "done.json").exists() and _ours(path) and not {name} & {*whole, *self.busy}:
                self._put("progress", f"{name}/{path.name}", "the cell is done", path)
        self._old_logs()
        return Found(tuple(sorted(self.items, key=lambda item: -item.size)), tuple(self.kept))

    def _submissions(self) -> Iterator[Experiment]:
        """Judges every submission; the experiments of those that are at work count as given."""
        for folder in sorted(self.logs.glob("*/submissions/*")):
            if not _STAMP.fullmatch(folder.name) or not folder.is_dir() or not _ours(folder):
                continue
            there = (folder / "submission.json").exists()
            name = folder.parent.parent.name
            submission = (
                Submission.read(folder) if there else Submission(folder, name, self.store.root, self.logs, folder)
            )
            if (why := self._at_work(submission, there)) is None:
                self._put("submission", str(folder), "none of its jobs is in the queue", folder)
                continue
            self.kept.append(f"{folder}: {why}")
            for row in submission.rows.values():
                self.busy |= {cell: f"{folder} has it" for element in row.elements for cell in element}
            with suppress(ValidationError):  # of another version of the code, or not yet written
                yield Experiment.model_validate(read_json(folder / "experiment.json"), strict=False)

    def _at_work(self, submission: Submission, there: bool) -> str | None:
        """Why a submission has to stay, or ``None``."""
        jobs = [job.id for job in self.jobs if job.name.startswith(submission.job_name(""))]
        if jobs:
            return f"job {jobs[0]}{f' and {len(jobs) - 1} more' if len(jobs) > 1 else ''} in the queue"
        if any(row.job is not None for row in submission.rows.values()):
            return None if self.asked else "there is no SLURM here that could be asked for its jobs"
        cells = [cell for row in submission.rows.values() for element in row.elements for cell in element]
        if any(cell in self.busy for cell in cells):
            return "somebody is at its cells"
        done = there and all((submission.root / cell / "done.json").exists() for cell in cells)
        young = time.time() - submission.folder.stat().st_mtime < _LONGEST_LOCAL
        return "it may be at work: it has no jobs, is not done and not a week old" if young and not done else None

    def _unwanted(self, cells: list[tuple[str, Path]], wanted: list[Experiment]) -> Iterator[tuple[str, Path]]:
        """Those that no experiment refers to; what somebody is at refers to all that it depends on."""
        names, stems = set(), set()
        configs = [config for one in wanted for cell in one.cells for config in (*upstream(cell), cell)]
        configs += [config for name, folder in cells if name in self.busy for config in _sources(name, folder)]
        for config in configs:
            try:
                names.add(name_of(self.store.cell(config)))
            except InputError:  # its data are not on this machine: all that it may be is kept
                stems.add(f"{STAGE_NAMES[type(config)]}/{config.slug}")
        text = "".join(one.model_dump_json() for one in wanted)  # has paths to artifacts, such as warm_start's
        plain = [job.id for job in self.jobs if job.name.startswith(f"{PREFIX}-")]
        for name, folder in cells:
            if name in names or name[:-9] in stems or folder.name in text or not _ours(folder):
                continue
            if name in self.busy:
                self.kept.append(f"{name}: {self.busy[name]}")
            elif plain:
                self.kept.append(f"{name}: job {plain[0]} was submitted by sbatch, and may want it")
            else:
                yield name, folder

    def _cells(self, stage: str) -> Iterator[Path]:
        """Folders that a stage made, and nothing else that lies there."""
        for folder in sorted((self.store.root / stage).glob("*")):
            marked = any((folder / mark).exists() for mark in ("config.json", "attempts", "done.json"))
            if _CELL.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink() and marked:
                yield folder

    def _old_logs(self) -> None:
        """All but the last logs of a cell that nobody is at."""
        groups: dict[tuple[Path, str], dict[int, Path]] = {}
        for stage in MODULES:
            for path in self.logs.glob(f"*/{stage}/*.log"):
                found = _LOG.fullmatch(path.name)
                if found is not None and f"{stage}/{found['cell']}" not in self.busy and _ours(path):
                    groups.setdefault((path.parent, found["cell"]), {})[int(found["number"])] = path
        for (folder, cell), logs in sorted(groups.items()):
            old = sorted(logs)[:-LOGS_KEPT]
            if old:
                why = f"not of the last {LOGS_KEPT} attempts"
                self._put("logs", f"{folder / cell}.{ranges(old)}.log", why, *(logs[number] for number in old))

    def _put(self, kind: Kind, what: str, why: str, *paths: Path) -> None:
        self.items.append(Item(kind, paths, what, why, sum(map(_size, paths))))


def _sources(name: str, folder: Path) -> Iterator[Stage]:
    """What a cell that somebody is at reads."""
    try:
        config = STAGES[name.partition("/")[0]].model_validate(read_json(folder / "config.json"), strict=False)
    except (ValidationError, ValueError):
        return
    yield from upstream(config)


def _remove(item: Item) -> str | None:
    """Removes it; why not, where somebody has taken it up in the meantime."""
    for path in item.paths:
        if item.kind == "artifact":
            return _remove_cell(path)
        if item.kind == "submission":
            (path / "submission.json").unlink(missing_ok=True)  # first: without a table the rest is nobody's
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return None


def _remove_cell(folder: Path) -> str | None:
    """Removes an artifact under its lease, so that nobody begins it meanwhile."""
    sign = last_sign(folder)
    if sign is not None and time.time() - sign > _SILENT:
        (folder / "lease").unlink(missing_ok=True)
    lease = SoftFileLease(folder / "lease", lease_duration=LEASE_SECONDS)
    try:
        lease.acquire(timeout=0)
    except Timeout:
        return "somebody was at it a moment ago; try again in half an hour"
    try:
        (folder / "done.json").unlink(missing_ok=True)  # first: half an artifact must not count as a whole one
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "lease":
                path.unlink()
    finally:
        lease.release()
    with suppress(OSError):  # not empty: somebody begins it anew
        folder.rmdir()
    return None


def _ours(path: Path) -> bool:
    return path.stat().st_uid == os.getuid()


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    found = 0
    for at, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):  # gone in the meantime
                found += os.lstat(os.path.join(at, name)).st_size
    return found
