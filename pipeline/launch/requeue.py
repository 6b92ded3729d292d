"""A job that puts itself back into SLURM's queue, and how it knows that this is due."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

from pipeline.stopping import REQUEUE
from pipeline.store.attempts import job_id

_SECONDS = 30.0  # for an answer; a controller under load is slow


def requeue() -> None:
    """Puts this job back into the queue, which ends it; does nothing outside SLURM, or where it is queued already."""
    job = job_id()
    if job is None:
        return
    done = _scontrol("requeue", job)
    if done is not None and done.returncode != 0 and "pending" not in done.stderr.lower():
        print(f"could not requeue job {job}: {done.stderr.strip()}; run again to go on", file=sys.stderr, flush=True)


def due(sent: str) -> bool:
    """Whether this job should put itself back into the queue after a signal.

    The signal alone does not say why it came: a site may send SIGTERM or the job's own signal ahead of a pre-emption,
    and both also come from people. Only the controller can tell what is due from a cancellation, which a requeue would
    undo.

    Args:
        sent: name of the signal.

    """
    job = job_id()
    done = None if job is None else _scontrol("-o", "show", "job", job)
    if done is None or done.returncode != 0:
        return job is not None and sent in REQUEUE
    facts = dict(re.findall(r"(\w+)=(\S+)", done.stdout))
    if facts.get("JobState") == "RUNNING":
        # a step that leaves within the grace of a pre-emption has ended, for SLURM, and is not put back by it
        return sent in REQUEUE or facts.get("PreemptTime", "None") != "None"
    return facts.get("Reason") == "TimeLimit"  # the warning came too late; anything else is cancelled or queued again


def _scontrol(*words: str) -> subprocess.CompletedProcess[str] | None:
    # A pre-emption signals all processes of the job, more than once, and a requeue ends them: the command has to
    # outlive both. A signal that is blocked here is blocked in it from its first instant on.
    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCONT, signal.SIGUSR1, signal.SIGUSR2)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        return subprocess.run(("scontrol", *words), capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
