"""The last two jobs of a submission: one that clears away what will never start, one that makes the tables."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pipeline.launch.scheduler import Scheduler, stuck
from pipeline.launch.submission import Submission, queued
from pipeline.store import Store

_PATIENCE, _PAUSE = 300.0, 3.0  # seconds that SLURM may take to look at every dependency, and between two looks


def sweep(folder: str) -> None:
    """Cancels the elements of this experiment whose parent did not end well; runs once all parents have ended.

    SLURM leaves them pending for ever, and with them whatever waits for them to end. It looks at dependencies now and
    then only, so that this looks until none is undecided.
    """
    submission, scheduler = Submission.read(Path(folder)), Scheduler.here()
    if scheduler is None:
        return
    cancelled, end = 0, time.monotonic() + _PATIENCE
    while True:
        in_queue = queued(submission.logs, scheduler.mine())
        ours = [one.job for one in in_queue if one.experiment == submission.experiment and not one.finishes]
        never = stuck({job.id: job for job in ours})
        scheduler.cancel(never)
        cancelled += len(never)
        if not any(job.reason == "Dependency" for job in ours) or time.monotonic() > end:
            break
        time.sleep(_PAUSE)
    print(f"cancelled {cancelled} elements whose parent did not end well", file=sys.stderr)


def aggregate(folder: str) -> None:
    """Tables and figures of everything that has results; names what has none.

    Raises:
        InputError: see :func:`pipeline.stage4_aggregate.run`.

    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # compute nodes have no network; looking at an encoder's shape imports the hub
    from pipeline import stage4_aggregate

    submission = Submission.read(Path(folder))
    stage4_aggregate.show(stage4_aggregate.run(submission.whole, Store(submission.root), submission.out))
