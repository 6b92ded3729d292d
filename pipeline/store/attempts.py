"""What became of every attempt at a cell: a record beside the artifact, written when it begins and when it ends.

While it runs, what it has used so far is written down every few seconds (:mod:`~pipeline.store.usage`), so that the
cost of a cell counts the attempts that were killed, too.

``attempts/007.json``. They are the only account of who is at a cell, why it failed and how long it took; the holder of
the cell's lease writes them. An attempt without an end whose process is gone was killed.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pipeline.errors import StageError
from pipeline.store.atomic import read_json, write_json
from pipeline.store.failures import NO_MEMORY, Outcome, describe
from pipeline.store.usage import Beat, Meter

LEASE_SECONDS = 120.0
_CLEARED = "attempts/cleared.json"


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Attributes:
        number: counts from 1.
        host: the machine it ran on.
        pid: of the process.
        began: time, ISO 8601.
        job: SLURM's id, ``J`` or ``J_i``.
        scheduler: ``slurm`` where there is a job.
        restarts: how often SLURM had started the job before.
        log: file that its output went to (``$TEXTDD_LOG``).
        rows: how many rows of results or of the log were saved when it began.
        gpu: name of the GPU that it used.
        ended: time, ISO 8601; of one that was killed, the last sign of life. ``None`` while it runs.
        seconds: how long it took; of one that was killed, until its last sign of life.
        cpu_seconds: this and the next six as :class:`~pipeline.store.usage.Usage` has them; of an attempt that was
            killed or still runs, as of its last reading.
        gpu_seconds: wall seconds on a GPU.
        peak_mb: main memory.
        gpu_peak_mb: GPU memory that was reserved.
        gpu_allocated_mb: GPU memory that tensors had.
        threads: of torch.
        cpu: model of the processor.
        outcome: ``None`` while it runs.
        reason: of a failure ``out of memory``, a sentence for the user, or ``exception``; ``signal SIGTERM``;
            ``killed``; of one that was killed also ``out of memory``.
        exception: of a failure, the exception's type and the last line of its message.

    """

    number: int
    host: str
    pid: int
    began: str
    job: str | None = None
    scheduler: Literal["slurm"] | None = None
    restarts: int = 0
    log: str | None = None
    rows: int = 0
    gpu: str | None = None
    ended: str | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    peak_mb: float | None = None
    gpu_peak_mb: float | None = None
    gpu_allocated_mb: float | None = None
    threads: int | None = None
    cpu: str | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    exception: str | None = None

    @property
    def who(self) -> str:
        """Who made it, for people."""
        return f"{self.host} pid {self.pid}" + (f" job {self.job}" if self.job else "")

    @property
    def failure(self) -> str | None:
        """Why it failed, for people; ``None`` where it did not."""
        if self.outcome != "failed":
            return None
        if self.reason in NO_MEMORY and self.exception is not None:
            return f"{self.reason} ({self.exception})"
        return self.exception if self.reason == "exception" else self.reason

    @property
    def way(self) -> str | None:
        """How it came to nothing: equal for attempts that a third one would only repeat."""
        if self.outcome not in ("failed", "killed"):
            return None
        # how much was free differs from time to time
        return self.reason if self.outcome == "killed" or self.reason in NO_MEMORY else self.exception


def attempts_of(folder: Path) -> list[Attempt]:
    """All attempts at the cell in ``folder``, the oldest first; a record that cannot be read just now is left out."""
    found = [attempt for path in _files(folder) if (attempt := _read(path)) is not None]
    return [
        attempt if attempt.outcome or (attempt is found[-1] and is_alive(folder, attempt)) else _killed(attempt, None)
        for attempt in found
    ]


def last_of(folder: Path) -> Attempt | None:
    """The last of :func:`attempts_of`, by reading that one alone."""
    files = _files(folder)
    attempt = _read(files[-1]) if files else None
    if attempt is None or attempt.outcome or is_alive(folder, attempt):
        return attempt
    return _killed(attempt, None)


def is_alive(folder: Path, attempt: Attempt) -> bool:
    """Whether the process of an attempt that has not ended still refreshes its lease, as far as can be seen here."""
    seen = last_sign(folder)
    return seen is not None and time.time() - seen <= LEASE_SECONDS and not _is_dead(attempt)


def last_sign(folder: Path) -> float | None:
    """When the lease of the cell was last refreshed, in seconds since 1970; ``None`` where there is none."""
    try:
        return (folder / "lease").stat().st_mtime
    except OSError:
        return None


def last_write(folder: Path) -> float | None:
    """When the lease was last refreshed or, if that was later, anything beside it written; as :func:`last_sign`."""
    seen = last_sign(folder)
    for entry in [] if seen is None else os.scandir(folder):
        with suppress(OSError):  # a holder that lives moves its files into place
            seen = max(seen or 0.0, entry.stat().st_mtime if entry.is_file() else 0.0)
    return seen


class Running:
    """An attempt of this process that is under way: what it uses is written down until :func:`end`."""

    def __init__(self, folder: Path, attempt: Attempt) -> None:
        self.folder, self.attempt, self._meter = folder, attempt, Meter()
        _write(folder, self.now())
        self._beat = Beat(self._note)

    def now(self) -> Attempt:
        """The record, with what was used so far."""
        return replace(self.attempt, **asdict(self._meter.read()))

    def stop(self) -> Attempt:
        """The last reading; from here on nothing is written by itself."""
        self._beat.stop()
        return self.now()

    def _note(self) -> None:
        with suppress(OSError, StageError):  # a full disk is for the cell itself to find
            _write(self.folder, self.now())


def begin(folder: Path, seen: float | None) -> Running:
    """Records a new attempt by this process, which holds the lease; ends the record of one that was killed.

    Args:
        folder: the cell's.
        seen: :func:`last_write` from before the lease was this process's.

    Raises:
        StageError: the disk is full.

    """
    files = _files(folder)
    before = _read(files[-1]) if files else None
    if before is not None and before.outcome is None:
        _write(folder, _killed(before, seen))
    job = job_id()
    attempt = Attempt(
        number=1 + (int(files[-1].stem) if files else 0),
        host=os.uname().nodename,
        pid=os.getpid(),
        began=_iso(time.time()),
        job=job,
        scheduler="slurm" if job else None,
        restarts=_restarts(),
        log=os.environ.get("TEXTDD_LOG"),
        rows=rows_of(folder),
    )
    return Running(folder, attempt)


def end(running: Running, error: BaseException | None = None) -> None:
    """Records how an attempt of this process ended: well, or by ``error``.

    Raises:
        StageError: the disk is full.

    """
    outcome: Outcome = "done"
    reason = exception = None
    if error is not None:
        outcome, reason, exception = describe(error)
    attempt, now = running.stop(), time.time()
    _write(
        running.folder,
        replace(
            attempt,
            ended=_iso(now),
            seconds=_between(attempt, now),
            outcome=outcome,
            reason=reason,
            exception=exception,
        ),
    )


def settle(folder: Path, attempt: Attempt, reason: str) -> None:
    """Records why an attempt was killed, which the process could not know."""
    _write(folder, replace(attempt, outcome="killed", reason=reason))


def note_unbegun(folder: Path, job: str, host: str, reason: str, log: str | None) -> None:
    """Records that a job of SLURM's ended before it came to the cell in ``folder``, as an attempt that failed.

    Args:
        folder: the cell's.
        job: its id.
        host: where it ran.
        reason: why, for people; what stands before the first semicolon is equal where another job would only repeat it.
        log: file of what it printed.

    """
    files, now = _files(folder), _iso(time.time())
    number = 1 + (int(files[-1].stem) if files else 0)
    attempt = Attempt(number, host, 0, now, job, "slurm", log=log, rows=rows_of(folder), ended=now, seconds=0.0)
    used = replace(attempt, cpu_seconds=0.0, gpu_seconds=0.0)  # nothing, which is not the same as unknown
    _write(folder, replace(used, outcome="failed", reason=reason, exception=reason.partition(";")[0]))


def job_id() -> str | None:
    """SLURM's id of this job, ``J`` or ``J_i``, or ``None`` outside SLURM."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")


def is_earlier_start(attempt: Attempt) -> bool:
    """Whether this process's job made the attempt before SLURM put it back: that process is gone, wherever it was."""
    return attempt.job is not None and attempt.job == job_id() and attempt.restarts < _restarts()


def rows_of(folder: Path) -> int:
    """Rows that are in the cell's logs and results: how far it has got."""
    found = [path for name in ("log.csv", "results.csv", "robustness.csv") if (path := folder / name).exists()]
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in found)


def clear(folder: Path) -> None:
    """Lets the attempts so far count no more for giving the cell up."""
    if files := _files(folder):
        write_json(folder / _CLEARED, {"through": int(files[-1].stem), "time": _iso(time.time())})


def cleared(folder: Path) -> int:
    """The number of the last attempt that does not count any more, or 0."""
    record = read_json(folder / _CLEARED)
    return 0 if record is None else int(record["through"])


def _files(folder: Path) -> list[Path]:
    """The records in the order of their numbers; nothing of a record that is being written."""
    try:
        names = [name for name in os.listdir(folder / "attempts") if re.fullmatch(r"\d+\.json", name)]
    except OSError:
        return []
    return [folder / "attempts" / name for name in sorted(names, key=lambda name: int(name.partition(".")[0]))]


def _read(path: Path) -> Attempt | None:
    try:
        record = json.loads(path.read_text())
        return Attempt(**{field.name: record[field.name] for field in fields(Attempt) if field.name in record})
    except (OSError, ValueError, TypeError):  # gone, half there (not every file system moves files at once), foreign
        return None


def _write(folder: Path, attempt: Attempt) -> None:
    write_json(folder / "attempts" / f"{attempt.number:03}.json", asdict(attempt))


def _killed(attempt: Attempt, seen: float | None) -> Attempt:
    """The attempt as killed; ``seen`` is its last sign of life where that is known."""
    found = replace(attempt, outcome="killed", reason="killed")
    return found if seen is None else replace(found, ended=_iso(seen), seconds=_between(attempt, seen))


def _between(attempt: Attempt, end: float) -> float:
    return round(max(0.0, end - datetime.fromisoformat(attempt.began).timestamp()), 3)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _is_dead(attempt: Attempt) -> bool:
    if attempt.host != os.uname().nodename:
        return False
    try:
        os.kill(attempt.pid, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)  # not: somebody else's
    # killed, and nobody has asked for its status: in many containers process 1 asks late, or never
    with suppress(OSError, IndexError):
        return Path(f"/proc/{attempt.pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return False
