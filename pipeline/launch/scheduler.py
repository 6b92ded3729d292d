"""What SLURM knows of our jobs: one question about all of them, and a second one about those that it has forgotten.

``squeue --states=all`` lists what waits, what runs and, for ``MinJobAge`` (five minutes) after its end, what is over,
with or without accounting, so that no job is asked about by itself; ``sacct`` is asked for the others. Answers are kept
for a few seconds, and after an error nothing is asked for a while that doubles each time.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pipeline.errors import StageError

# Whatever else a state is called, in this or a later version of SLURM, its job may still run.
_ENDS = {
    "BOOT_FAIL": "node failure", "CANCELLED": "cancelled", "COMPLETED": "completed", "DEADLINE": "deadline",
    "FAILED": "failed", "LAUNCH_FAILED": "could not be started", "NODE_FAIL": "node failure",
    "OUT_OF_MEMORY": "out of memory", "PREEMPTED": "pre-empted", "RECONFIG_FAIL": "node failure",
    "REVOKED": "revoked", "TIMEOUT": "time limit",
}  # fmt: skip
_WAITS = {
    "Dependency": "waits for another job",
    "DependencyNeverSatisfied": "can never start: the job it waits for failed",
    "JobArrayTaskLimit": "as many of its array run as may (at_once)",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held; scontrol release {job}",
    "None": "new in the queue",
    "Priority": "waits behind jobs of higher priority",
    "Resources": "waits for free resources",
    "job requeued in held state": "requeued and held; scontrol release {job}",
}
_FIELDS = ("JobArrayID", "State", "EndTime", "StartTime", "NodeList", "exit_code", "RestartCnt", "Reason", "Name")
_ACCOUNTED = ("JobID", "State", "ExitCode", "NodeList", "Reason", "JobName")
_SQUEUE = ("squeue", "--noheader", "--array", "--states=all", "--Format=" + ",".join(f"{name}:|" for name in _FIELDS))
_SACCT = ("sacct", "--allocations", "--noheader", "--parsable2", "--format=" + ",".join(_ACCOUNTED))
_ODD = {53: "its log could not be opened", 125: "out of memory"}  # "signals" of SLURM's own
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0  # seconds without a question after errors
_ASK_AGAIN = 60.0  # seconds until an id that nobody knew is asked for again: accounting lags
_MONTH = 30 * 86400.0


@dataclass(frozen=True)
class JobState:
    """One job, or one element of an array.

    Attributes:
        id: ``J`` or ``J_i``.
        state: SLURM's long name, such as ``PENDING``.
        reason: SLURM's, why it waits or how it ended; often empty.
        begins: when it began or is expected to, in seconds since the epoch.
        ends: when its time is over, likewise.
        node: where it runs or ran.
        code: its exit status.
        signal: what killed it, or 0.
        restarts: how often it was requeued.
        name: the job's.

    """

    id: str
    state: str
    reason: str = ""
    begins: float | None = None
    ends: float | None = None
    node: str = ""
    code: int = 0
    signal: int = 0
    restarts: int = 0
    name: str = ""

    @property
    def live(self) -> bool:
        """Whether it may still run: neither over nor forgotten."""
        return self.state not in _ENDS

    @property
    def seconds_left(self) -> float | None:
        """Of its time limit, while it runs."""
        return None if self.ends is None or self.state != "RUNNING" else max(0.0, self.ends - time.time())

    @property
    def waits(self) -> str:
        """Why it does not run yet and, where SLURM knows, when it will."""
        if self.state != "PENDING":
            return f"is {self.state.lower()}" + (f" on {self.node}" if self.node else "")
        if self.reason == "BeginTime":
            return ("requeued, begins" if self.restarts else "begins") + f" at {clock(self.begins)}"
        soon = self.begins is not None and self.begins - time.time() < _MONTH
        when = f", about {clock(self.begins)}" if soon and self.reason in ("Resources", "Priority") else ""
        known = _WAITS.get(self.reason)
        if known is None and re.match("QOS|Assoc", self.reason):
            known = f"a limit of the account or QOS is reached ({self.reason})"
        elif known is None and re.match("ReqNode|Nodes? |Partition|Reservation", self.reason):
            known = f"its nodes are not available ({self.reason})"
        return (known or f"waits: {self.reason}").format(job=self.id) + when

    @property
    def end_reason(self) -> str:
        """How it ended, in a word or two; ``killed by …`` and ``exit …`` are all that SLURM knows of some deaths."""
        if self.signal in _ODD:
            return _ODD[self.signal]
        if self.state == "CANCELLED" and self.reason.startswith("Dependency"):
            return "its dependency failed"
        if self.state == "FAILED" and self.signal:
            known = self.signal in list(signal.Signals)
            return f"killed by {signal.Signals(self.signal).name if known else self.signal}"
        if self.state == "FAILED" and self.code:
            return f"exit {self.code}"
        return _ENDS.get(self.state, self.state.lower())


def stuck(jobs: Mapping[str, JobState]) -> list[str]:
    """The ids of jobs that wait for what cannot happen any more; SLURM leaves them in the queue for ever."""
    return [job for job, state in jobs.items() if state.live and state.reason == "DependencyNeverSatisfied"]


@dataclass
class _Line:
    """A program that answers questions; after an error it is left in peace for a while."""

    failures: int = 0
    until: float = 0.0
    error: str | None = None

    def ask(self, *command: str) -> str | None:
        """Its answer, or ``None`` where there is none now; ``error`` says why."""
        if time.monotonic() < self.until:
            return None
        said, self.error = _run(*command)
        if self.error is None:
            self.failures = 0
            return said
        pause = min(_FIRST_PAUSE * 2 ** min(self.failures, 10), _LONGEST_PAUSE)
        self.failures, self.until = self.failures + 1, time.monotonic() + pause
        return None


@dataclass
class Scheduler:
    """SLURM as this user sees it, remembered for one session; an answer is good for ``fresh`` seconds."""

    fresh: float = 3.0
    _squeue: _Line = field(default_factory=_Line)
    _sacct: _Line = field(default_factory=_Line)
    _queue: dict[str, JobState] = field(default_factory=dict)
    _over: dict[str, JobState] = field(default_factory=dict)
    _asked_in_vain: dict[str, float] = field(default_factory=dict)
    _seen: float | None = None
    _heard: float | None = None  # when, by the clock on the wall
    _accounted: bool | None = None
    _site: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, fresh: float = 3.0) -> Scheduler | None:
        """The SLURM of this machine, or ``None`` where it has none."""
        programs = ("sbatch", "squeue", "scontrol", "scancel")
        return cls(fresh) if all(shutil.which(program) for program in programs) else None

    @property
    def trouble(self) -> str | None:
        """What could not be asked, in one line; until then :meth:`jobs` says what was known before, or nothing."""
        if self._squeue.error is not None:
            known = "nothing is known of jobs" if self._heard is None else f"jobs are as of {clock(self._heard)}"
            return f"SLURM does not answer ({self._squeue.error}); {known}"
        if self._sacct.error is not None:
            return f"SLURM's accounting does not answer ({self._sacct.error}); how older jobs ended is not known"
        return None

    def jobs(self, ids: Iterable[str]) -> dict[str, JobState]:
        """The jobs of ``ids`` that SLURM knows of; see :attr:`trouble` before taking one that is missing for over.

        Missing are jobs that ended long ago, where there is no accounting, and elements that were cancelled before
        they began, of which SLURM keeps nothing. An id is ``J`` for a job, ``J_i`` for an element of an array.
        """
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return {}
        self._look()
        self._look_up([job for job in wanted if job not in self._queue and job not in self._over])
        known = self._over | self._queue
        return {job: known[job] for job in wanted if job in known}

    def mine(self) -> list[JobState]:
        """All jobs of this user that are not over, as of now.

        Raises:
            StageError: SLURM does not answer; to take that for an empty queue would be to run things twice.

        """
        self._seen = None
        self._look()
        if self._squeue.error is not None:
            raise StageError(f"SLURM does not answer ({self._squeue.error}); try again later")
        return [state for state in self._queue.values() if state.live]

    def max_array_size(self) -> int | None:
        """The index of an array's element must be less than this; ``None`` where it cannot be found out."""
        found = self._configured("MaxArraySize")
        return int(found) if found is not None and found.isdigit() else None

    def accounting(self) -> bool:
        """Whether ``sacct`` remembers jobs on this site."""
        if self._accounted is None:
            kind = self._configured("AccountingStorageType")
            self._accounted = None if kind is None else not re.search("none|null", kind)
        return self._accounted is not False and shutil.which("sacct") is not None

    def cancel(self, ids: Iterable[str]) -> str | None:
        """Cancels the jobs of ``ids`` alone, in one call; returns what went wrong. One that is over is no error."""
        named = list(grouped(ids))
        self._seen = None
        return _run("scancel", "--quiet", *named, seconds=60)[1] if named else None

    def _configured(self, key: str) -> str | None:
        if not self._site:
            said = self._squeue.ask("scontrol", "show", "config") or ""
            self._site = dict(re.findall(r"^(\w+)\s*= (.*)$", said, re.MULTILINE))
        return self._site.get(key)

    def _look(self) -> None:
        """Renews the queue."""
        if self._seen is not None and time.monotonic() - self._seen < self.fresh:
            return
        said = self._squeue.ask(*_SQUEUE, f"--user={os.getuid()}")
        if said is None:
            return
        # Those that left the queue are remembered as they ended, for sites without accounting.
        before = self._over | self._queue
        self._queue = {state.id: state for state in _queued(said)}
        self._over = {job: state for job, state in before.items() if not state.live and job not in self._queue}
        self._seen, self._heard = time.monotonic(), time.time()

    def _look_up(self, ids: list[str]) -> None:
        """Asks accounting for jobs that the queue does not have."""
        now = time.monotonic()
        ids = [job for job in ids if self._asked_in_vain.get(job, 0.0) <= now]
        if not ids or self._accounted is False or shutil.which("sacct") is None:
            return
        arrays = ",".join(dict.fromkeys(job.partition("_")[0] for job in ids))
        said = self._sacct.ask(*_SACCT, f"--jobs={arrays}")
        if said is None:
            if "disabled" in (self._sacct.error or ""):
                self._accounted, self._sacct.error = False, None
            return
        found = dict(_accounted(said))
        for job in ids:
            # An array that was cancelled as a whole before it began has one row.
            whole = found.get(job.partition("_")[0])
            state = found.get(job, whole if whole is not None and whole.state == "CANCELLED" else None)
            if state is not None and (not state.live or self._heard is None):
                # one that lives, too, as long as the controller has never answered
                self._over[job] = replace(state, id=job)
            else:
                self._asked_in_vain[job] = now + _ASK_AGAIN


def _run(*command: str, seconds: float = 20.0) -> tuple[str, str | None]:
    """Standard output, and in one line what went wrong."""
    # The user's own defaults for these programs would change what they print, or make them ask.
    kept = {name: value for name, value in os.environ.items() if not re.match("SQUEUE_|SACCT_|SCANCEL_", name)}
    kept |= {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False, env=kept
        )
    except subprocess.TimeoutExpired:
        return "", f"{command[0]}: no answer within {seconds:.0f} s"
    except OSError as error:
        return "", f"{command[0]}: {error.strerror}"
    if done.returncode == 0:
        return done.stdout, None
    return "", (done.stderr.strip().splitlines() or [f"{command[0]}: exit status {done.returncode}"])[-1]


def _queued(said: str) -> Iterator[JobState]:
    for line in said.splitlines():
        parts = line.removesuffix("|").split("|", len(_FIELDS) - 1)
        if len(parts) != len(_FIELDS):
            continue  # the name of a cluster, where there are several
        job, state, end, start, node, code, restarts, reason, name = parts
        reason = "" if reason == "None" and state != "PENDING" else reason
        begins, ends = (float(moment) if moment.isdigit() else None for moment in (start, end))
        waited = int(code) if code.isdigit() else 0  # as wait(2) returns it
        by, status = waited & 127, 0 if waited & 127 else waited >> 8
        yield JobState(job, state, reason, begins, ends, node, status, by, int(restarts or 0), name)


def _accounted(said: str) -> Iterator[tuple[str, JobState]]:
    for line in said.splitlines():
        parts = line.split("|", len(_ACCOUNTED) - 1)
        if len(parts) != len(_ACCOUNTED):
            continue
        ids, state, code, node, reason, name = parts
        status, _, by = code.partition(":")
        # The reason is a left-over from when the job waited, but for one that SLURM itself cancelled.
        state, reason = state.split()[0], reason if state == "CANCELLED" else ""
        node = "" if node == "None assigned" else node
        for job in _each(ids):
            yield job, JobState(job, state, reason, None, None, node, int(status or 0), int(by or 0), 0, name)


def _each(ids: str) -> Iterator[str]:
    """``1_[2-3,7%2]`` -> 1_2, 1_3, 1_7."""
    array, bracket, indices = ids.partition("_[")
    if not bracket:
        yield ids
        return
    for first, last, step in re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?(?=[,\]%])", indices.split("%")[0] + "]"):
        yield from (f"{array}_{index}" for index in range(int(first), int(last or first) + 1, int(step or 1)))


def grouped(ids: Iterable[str]) -> Iterator[str]:
    """Ids with the elements of an array as one word: 1_0, 1_1, 1_5 -> ``1_[0-1,5]``."""
    arrays: dict[str, set[int]] = defaultdict(set)
    for job in dict.fromkeys(ids):
        array, _, index = job.partition("_")
        if index:
            arrays[array].add(int(index))
        else:
            yield job
    for array, indices in arrays.items():
        yield f"{array}_[{ranges(indices)}]" if len(indices) > 1 else f"{array}_{indices.pop()}"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as SLURM and people write them: 0, 1, 2, 5 -> ``0-2,5``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def clock(moment: float | None) -> str:
    """A moment, in seconds since the epoch, as the time of the day, with the day where that is not today."""
    if moment is None:
        return "an unknown time"
    then, today = time.localtime(moment), time.localtime()
    day = "" if then[:3] == today[:3] else "%d %b "
    return time.strftime(day + "%H:%M", then)
