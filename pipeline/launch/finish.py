"""The last two jobs of a submission: one that clears away what will never start, one that makes the tables."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.config import Experiment
from pipeline.launch.scheduler import Scheduler, stuck
from pipeline.launch.submission import Submission
from pipeline.store import Store
from pipeline.store.atomic import read_json


def sweep(folder: str) -> None:
    """Cancels the elements of this submission whose parent did not end well; runs once all parents have ended.

    SLURM leaves them pending for ever, and with them whatever waits for them to end.
    """
    submission, scheduler = Submission.read(Path(folder)), Scheduler.here()
    if scheduler is None:
        return
    ours = [job for job in scheduler.mine() if job.name.startswith(submission.job_name(""))]
    never = stuck({job.id: job for job in ours})
    scheduler.cancel(never)
    print(f"cancelled {len(never)} elements whose parent did not end well", file=sys.stderr)


def aggregate(folder: str) -> None:
    """Tables and figures of everything that has results; names what has none.

    Raises:
        InputError: see :func:`pipeline.stage4_aggregate.run`.

    """
    from pipeline import stage4_aggregate

    submission = Submission.read(Path(folder))
    experiment = Experiment.model_validate(read_json(submission.folder / "experiment.json"), strict=False)
    stage4_aggregate.show(stage4_aggregate.run(experiment, Store(submission.root), submission.out))
