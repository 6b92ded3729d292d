"""What a cell has cost: the records of all its attempts, killed ones included, added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.store.attempts import Attempt


@dataclass(frozen=True)
class Cost:
    """What the attempts at a cell used together; ``None`` where one of them did not record it.

    Attributes:
        seconds: wall seconds.
        cpu_seconds: processor seconds of all threads.
        gpu_seconds: wall seconds in which a GPU was taken.
        peak_mb: most main memory (MiB) of any attempt.
        gpu_peak_mb: most GPU memory (MiB) that was reserved; ``None`` without a GPU.
        attempts: how many there were.
        threads: of torch; more than one number where attempts differed.
        cpus: models of the processors.
        gpus: names of the GPUs.

    """

    seconds: float
    cpu_seconds: float | None
    gpu_seconds: float | None
    peak_mb: float | None
    gpu_peak_mb: float | None
    attempts: int
    threads: tuple[int, ...]
    cpus: tuple[str, ...]
    gpus: tuple[str, ...]


def cost_of(attempts: Sequence[Attempt]) -> Cost | None:
    """The attempts' cost together; ``None`` where there was none."""
    if not attempts:
        return None
    return Cost(
        seconds=round(sum(attempt.seconds or 0.0 for attempt in attempts), 3),
        cpu_seconds=_sum(attempt.cpu_seconds for attempt in attempts),
        gpu_seconds=_sum(attempt.gpu_seconds for attempt in attempts),
        peak_mb=max((attempt.peak_mb for attempt in attempts if attempt.peak_mb is not None), default=None),
        gpu_peak_mb=max((attempt.gpu_peak_mb for attempt in attempts if attempt.gpu_peak_mb is not None), default=None),
        attempts=len(attempts),
        threads=tuple(sorted({attempt.threads for attempt in attempts if attempt.threads is not None})),
        cpus=tuple(sorted({attempt.cpu for attempt in attempts if attempt.cpu is not None})),
        gpus=tuple(sorted({attempt.gpu for attempt in attempts if attempt.gpu is not None})),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return round(sum(known), 3) if len(known) == len(found) else None
