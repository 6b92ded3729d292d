"""What jobs printed: the logs of their cells, and what SLURM, srun and the shell said of a job in a file of its own.

Under ``--cluster slurm`` that is ``jobs/<array>/<job>_<task>_log.err`` of the submission, which submitit names; a plain
``sbatch`` job has one file for everything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.launch.scheduler import JobState
from pipeline.launch.submission import Submission
from pipeline.store.attempts import Attempt
from pipeline.store.failures import OUT_OF_MEMORY

# Ends that SLURM itself explains; of the others it has no more than an exit status or a signal.
EXPLAINED = frozenset(("cancelled", "deadline", "node failure", OUT_OF_MEMORY, "pre-empted", "time limit"))
_ECHO = "srun: "  # says that a task ended, not why
_NO_MEMORY = re.compile(r"oom.?kill|exceeded (job )?memory limit|out of memory", re.IGNORECASE)


@dataclass(frozen=True)
class Outputs:
    """The folders of what jobs printed themselves.

    Attributes:
        folders: id of an array, or of a plain job -> its folder.

    """

    folders: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, submitted: Iterable[Submission]) -> Outputs:
        """Those of the jobs of some submissions."""
        rows = ((one, row) for one in submitted for row in one.rows.values() if row.job is not None)
        return cls({str(row.job): one.folder / "jobs" / row.name for one, row in rows})

    def errors(self, job: str | None) -> list[Path]:
        """The files of standard error of one job, ``J`` or ``J_i``; one per task of its step."""
        folder = self.folders.get((job or "").partition("_")[0])
        return [] if folder is None else sorted(folder.glob(f"{job}_*_log.err"))

    def out_of_memory(self, killed: Attempt, end: str | None) -> bool:
        """Whether an attempt was killed for its memory.

        Without control groups SLURM kills by sampling: that is in the job's own output or, of plain ``sbatch``, in the
        log of its cell, and not in the job's state.

        Args:
            killed: the attempt.
            end: how its job ended, as the scheduler has it (:attr:`JobState.end_reason`); ``None`` where it does not.

        """
        if OUT_OF_MEMORY in (killed.reason, end):
            return True
        files = [*self.errors(killed.job), *([Path(killed.log)] if killed.log is not None else [])]
        printed = any(path.exists() and _NO_MEMORY.search(tail(path, 4000)) is not None for path in files)
        return printed and end not in EXPLAINED

    def last_words(self, job: str | None) -> tuple[Path, str] | None:
        """The file in which a job says why it ended, and that line of it; ``None`` where it printed nothing."""
        for path in self.errors(job):
            lines = [line.strip() for line in tail(path, 4000).splitlines() if line.strip()]
            if lines:
                return path, next((one for one in reversed(lines) if not one.startswith(_ECHO)), lines[-1])
        return None


def unbegun(job: JobState, said: tuple[Path, str] | None) -> str:
    """Why a cell was not begun by its job, which has ended: for people; ``said`` is :meth:`Outputs.last_words`."""
    return f"its job ended before it began: {job.end_reason}" + (f"; {said[1]}" if said is not None else "")


def says(log: str | None, words: str) -> bool:
    """Whether the first lines of a cell's log, before it computes anything, have some words."""
    if log is None or not Path(log).is_file():
        return False
    with open(log, "rb") as file:
        return words.encode() in file.read(8000)


def tail(path: Path, size: int) -> str:
    """The last ``size`` bytes of a file."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode(errors="replace")
