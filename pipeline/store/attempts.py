"""What became of every attempt at a cell: a record beside the artifact, written when it begins and when it ends.

``attempts/007.json``. They are the only account of who is at a cell, why it failed and how long it took; the holder of
the cell's lease writes them. An attempt without an end whose process is gone was killed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError, StageError
from pipeline.stopping import REQUEUE, Stopped
from pipeline.store.atomic import is_full, read_json, write_json

Outcome = Literal["done", "failed", "stopped", "killed"]
LEASE_SECONDS = 120.0
OUT_OF_MEMORY = "out of memory"
OUT_OF_GPU_MEMORY = f"{OUT_OF_MEMORY} on the GPU"  # which more memory of the node does not help
NO_MEMORY = (OUT_OF_MEMORY, OUT_OF_GPU_MEMORY)
_NO_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")
_NO_GPU_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_CLEARED = "attempts/cleared.json"
_MIB = 2**20


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
        gpu: name of the GPU that it used; known at the end.
        ended: time, ISO 8601; of one that was killed, the last sign of life. ``None`` while it runs.
        seconds: how long it took.
        peak_mb: the most main memory (MiB) that its process ever held, cells before this one included.
        gpu_peak_mb: the most GPU memory (MiB) that torch reserved for this attempt.
        outcome: ``None`` while it runs.
        reason: of a failure ``out of memory``, a sentence for the user, or ``exception``; ``signal SIGTERM``;
            ``killed``.
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
    peak_mb: float | None = None
    gpu_peak_mb: float | None = None
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


def begin(folder: Path, seen: float | None) -> Attempt:
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
    _write(folder, attempt)
    with suppress(RuntimeError):  # of a device that was lost
        if (cuda := _cuda()) is not None:
            cuda.reset_peak_memory_stats()
    return attempt


def end(folder: Path, attempt: Attempt, error: BaseException | None = None) -> None:
    """Records how an attempt of this process ended: well, or by ``error``.

    Raises:
        StageError: the disk is full.

    """
    outcome: Outcome = "done"
    reason = exception = None
    if error is not None:
        outcome, reason, exception = describe(error)
    gpu = gpu_peak = None
    with suppress(RuntimeError):
        if (cuda := _cuda()) is not None:
            gpu, gpu_peak = cuda.get_device_name(), round(cuda.max_memory_reserved() / _MIB, 1)
    now, unit = time.time(), 1 if sys.platform == "darwin" else 1024
    ended = replace(
        attempt,
        gpu=gpu,
        ended=_iso(now),
        seconds=_between(attempt, now),
        peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB, 1),
        gpu_peak_mb=gpu_peak,
        outcome=outcome,
        reason=reason,
        exception=exception,
    )
    _write(folder, ended)


def describe(error: BaseException) -> tuple[Outcome, str, str | None]:
    """Outcome, reason and exception of an attempt that ``error`` ended, as in :class:`Attempt`."""
    if isinstance(error, Stopped):
        return "stopped", f"signal {error.signal}", None
    if isinstance(error, KeyboardInterrupt | GeneratorExit):  # the latter: interrupted on the way into the block
        return "stopped", "signal SIGINT", None
    lines = str(error).strip().splitlines()
    exception = type(error).__name__ + (f": {lines[-1].strip()}" if lines else "")
    if type(error).__name__ == "OutOfMemoryError" or _NO_GPU_MEMORY.search(str(error)):
        return "failed", OUT_OF_GPU_MEMORY, exception
    named = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if named or _NO_MEMORY.search(str(error)):
        return "failed", OUT_OF_MEMORY, exception
    if isinstance(error, InputError | StageError):
        return "failed", str(error), exception
    if isinstance(error, OSError) and is_full(error):
        return "failed", "no space left on the disk", exception
    return "failed", "exception", exception


def job_id() -> str | None:
    """SLURM's id of this job, ``J`` or ``J_i``, or ``None`` outside SLURM."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")


def is_earlier_start(attempt: Attempt) -> bool:
    """Whether this process's job made the attempt before SLURM put it back: that process is gone, wherever it was."""
    return attempt.job is not None and attempt.job == job_id() and attempt.restarts < _restarts()


def same_way(attempts: Sequence[Attempt], rows: int) -> int:
    """How many of the last attempts came to nothing in one and the same way.

    Those that were stopped neither count nor break the row, and those that were killed break it where they got further
    than the one before: a node that fails now and then is no reason to give a cell up.

    Args:
        attempts: of one cell.
        rows: :func:`rows_of` the cell now.

    """
    count, way = 0, None
    for attempt, further in reversed(list(zip(attempts, _further(attempts, rows), strict=True))):
        if attempt.outcome in ("stopped", None):
            continue
        if attempt.way is None or way not in (None, attempt.way) or (further and attempt.outcome == "killed"):
            break
        count, way = count + 1, attempt.way
    return count


def retry_reasons(attempts: Sequence[Attempt], rows: int) -> dict[Literal["out_of_memory", "timeout"], int]:
    """How many attempts ended out of memory, and how many were too short to save anything; as :func:`same_way`."""
    warned = {f"signal {name}" for name in REQUEUE}
    saved = zip(attempts, _further(attempts, rows), strict=True)
    return {
        "out_of_memory": sum(attempt.reason == OUT_OF_MEMORY for attempt in attempts),
        "timeout": sum(attempt.reason in warned and not further for attempt, further in saved),
    }


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


def _further(attempts: Sequence[Attempt], rows: int) -> list[bool]:
    """Whether each attempt saved anything, which shows in what its successor found; the last one's in ``rows``."""
    found = [*(attempt.rows for attempt in attempts), rows]
    return [after > before for before, after in pairwise(found)]


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


def _cuda() -> Any:
    """``torch.cuda`` where this process computes on a GPU; imports nothing."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    initialised = getattr(cuda, "is_initialized", None)  # torch may be half imported when a signal comes
    return cuda if initialised is not None and initialised() else None
