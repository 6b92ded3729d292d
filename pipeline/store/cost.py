"""What a cell has cost: the records of all its attempts, killed ones included, added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.store.attempts import Attempt
from pipeline.store.usage import Usage


@dataclass(frozen=True)
class Cost:
    """What the attempts at a cell used together, all ranks of each; ``None`` where one of them did not record it.

    Attributes:
        seconds: wall seconds.
        cpu_seconds: processor seconds of all threads.
        gpu_seconds: wall seconds in which a GPU was taken, those of several GPUs added up.
        peak_mb: most main memory (MiB) of any process.
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


def cost_of(attempts: Sequence[Attempt], aides: Sequence[Usage] = ()) -> Cost | None:
    """The cost of the attempts and of what their other ranks used; ``None`` where there was none."""
    if not attempts:
        return None
    everyone: list[Attempt | Usage] = [*attempts, *aides]
    return Cost(
        seconds=round(sum(attempt.seconds or 0.0 for attempt in attempts), 3),
        cpu_seconds=_sum(one.cpu_seconds for one in everyone),
        gpu_seconds=_sum(one.gpu_seconds for one in everyone),
        peak_mb=max((one.peak_mb for one in everyone if one.peak_mb is not None), default=None),
        gpu_peak_mb=max((one.gpu_peak_mb for one in everyone if one.gpu_peak_mb is not None), default=None),
        attempts=len(attempts),
        threads=tuple(sorted({one.threads for one in everyone if one.threads is not None})),
        cpus=tuple(sorted({one.cpu for one in everyone if one.cpu is not None})),
        gpus=tuple(sorted({one.gpu for one in everyone if one.gpu is not None})),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return round(sum(known), 3) if len(known) == len(found) else None
