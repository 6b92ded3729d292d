"""What the attempts at a cell tell together: whether another one would help, and what it should ask for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pipeline.stopping import REQUEUE
from pipeline.store.attempts import Attempt
from pipeline.store.failures import OUT_OF_MEMORY

SLOTS = 3  # time slots of one job that save nothing, after which it is not put back into the queue
TOO_SHORT = (
    f"{SLOTS} slots of this job ended before anything was saved, so it is not queued again; give it more minutes in "
    f"the cluster's file and submit it again"
)
_WARNED = frozenset(f"signal {name}" for name in REQUEUE)


def same_way(attempts: Sequence[Attempt], rows: int) -> int:
    """How many of the last attempts came to nothing in one and the same way.

    Those that were stopped neither count nor break the row, and those that were killed break it where they got further
    than the one before: a node that fails now and then is no reason to give a cell up.

    Args:
        attempts: of one cell.
        rows: rows that the cell has saved by now.

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
    saved = zip(attempts, _further(attempts, rows), strict=True)
    return {
        "out_of_memory": sum(attempt.reason == OUT_OF_MEMORY for attempt in attempts),
        "timeout": sum(attempt.reason in _WARNED and not further for attempt, further in saved),
    }


def stalled(attempts: Sequence[Attempt], rows: int) -> bool:
    """Whether the last :data:`SLOTS` attempts were slots of one job, each too short to save anything.

    Args:
        attempts: of one cell.
        rows: as for :func:`same_way`.

    """
    last = attempts[-SLOTS:]
    if len(last) < SLOTS or len({attempt.job for attempt in last}) > 1 or last[-1].job is None:
        return False
    in_vain = (attempt.reason in _WARNED for attempt in last)
    return all(in_vain) and not any(_further(last, rows))


def _further(attempts: Sequence[Attempt], rows: int) -> list[bool]:
    """Whether each attempt saved anything, which shows in what its successor found; the last one's in ``rows``."""
    found = [*(attempt.rows for attempt in attempts), rows]
    return [after > before for before, after in pairwise(found)]
