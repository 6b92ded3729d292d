"""Every attempt at a cell is on record: how it ended, why, where, and whether another one is worth its time."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import stopping
from pipeline.config import Distill
from pipeline.errors import InputError, StageError
from pipeline.parallel import PeerFailedError
from pipeline.stopping import Stopped
from pipeline.store import Attempt, Cell, Store, attempts, attempts_of, usage

TASK = {"name": "t", "source": {"kind": "hub", "id": "a/b"}, "text": ["x"]}
RAW = {"source": {"task": TASK, "model": "c/d"}, "method": {"name": "ddal"}}
ARRAY = {"SLURM_JOB_ID": "1240", "SLURM_ARRAY_JOB_ID": "1234", "SLURM_ARRAY_TASK_ID": "7"}
HOLD = """
import json, os, signal, sys, time
from pipeline import stopping
from pipeline.config import Distill
from pipeline.store import Store, attempts, usage
attempts.LEASE_SECONDS, busy, usage.BEAT_SECONDS = map(float, sys.argv[3:])
cell = Store(sys.argv[1]).cell(Distill.model_validate(json.loads(sys.argv[2])))
with stopping.listen(), cell.claim() as out:
    print("held", flush=True)
    while time.process_time() < busy:
        pass
    time.sleep(60)
"""


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Store(tmp_path / "root").cell(Distill.model_validate(RAW))


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TEXTDD_"))]:
        monkeypatch.delenv(name)


def attempt(cell: Cell, error: BaseException | str | None = None, rows: int | None = None) -> None:
    """An attempt that ended with an error, well, or by kill -9; with so many rows saved by then."""
    with contextlib.suppress(BaseException), cell.claim() as out:
        assert out is not None
        if rows is not None:
            (out / "log.csv").write_text("step\n" + "1\n" * rows)
        if error == "killed":
            raise Stopped("SIGTERM")
        if isinstance(error, BaseException):
            raise error
    if error == "killed":  # as if nobody had lived to write the end
        path = sorted((cell.folder / "attempts").glob("0*.json"))[-1]
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"ended": None, "outcome": None, "seconds": None, "reason": None}))


def hold(
    cell: Cell, lease: float = 120.0, busy: float = 0.0, beat: float = 15.0, **environment: str
) -> subprocess.Popen[str]:
    """A process that is at the cell, busy until it has used so many seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cell.folder.parents[1]), json.dumps(RAW), str(lease), str(busy), str(beat)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n", process.communicate()[1]
    return process


# --- what is on record ---------------------------------------------------------------------------------------------


def test_an_attempt_that_is_running_and_then_done(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (ARRAY | {"SLURM_RESTART_COUNT": "2", "TEXTDD_LOG": "/logs/a.log"}).items():
        monkeypatch.setenv(name, value)
    assert cell.attempts() == []
    with cell.claim():
        (running,) = cell.attempts()
        assert (running.outcome, running.ended, running.seconds) == (None, None, None)
        assert cell.holder() == running.who == f"{os.uname().nodename} pid {os.getpid()} job 1234_7"
        time.sleep(0.05)
    (found,) = cell.attempts()
    assert (found.number, found.job, found.scheduler, found.restarts) == (1, "1234_7", "slurm", 2)
    assert (found.host, found.pid, found.log) == (os.uname().nodename, os.getpid(), "/logs/a.log")
    assert (found.outcome, found.reason, found.exception, found.failure) == ("done", None, None, None)
    assert found.seconds is not None
    assert found.ended is not None
    assert 0.05 <= found.seconds < 5
    assert datetime.fromisoformat(found.began) < datetime.fromisoformat(found.ended)
    assert found.peak_mb is not None
    assert 50 < found.peak_mb < 100_000  # torch is in this process
    assert (found.gpu, found.gpu_peak_mb) == (None, None) or torch.cuda.is_initialized()
    assert found == attempts_of(cell.folder)[0]
    assert {path.name for path in (cell.folder / "attempts").iterdir()} == {"001.json"}
    with cell.claim() as out:
        assert out is None
    assert len(cell.attempts()) == 1, "nothing was attempted"


def test_a_job_of_its_own_and_none(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(cell, RuntimeError())
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    attempt(cell, RuntimeError())
    assert [(a.job, a.scheduler, a.restarts, a.log) for a in cell.attempts()] == [
        (None, None, 0, None),
        ("99", "slurm", 0, None),
    ]


class Card:
    """``torch.cuda`` of a process that computes on a GPU."""

    def __init__(self, lost: bool = False) -> None:
        self.lost, self.peak = lost, 7 * 2**30

    def is_initialized(self) -> bool:
        return True

    def reset_peak_memory_stats(self) -> None:
        self.peak = 0

    def get_device_name(self) -> str:
        if self.lost:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return "NVIDIA H200"

    def max_memory_reserved(self) -> int:
        return self.peak

    def max_memory_allocated(self) -> int:
        return self.peak // 2


def test_what_a_gpu_was_asked_for(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card()
    monkeypatch.setattr(torch, "cuda", card)
    with cell.claim():
        card.peak += 3 * 2**29
    (cell.folder / "done.json").unlink()
    card.lost = True
    attempt(cell, BOOM)
    first, second = cell.attempts()
    assert (first.gpu, first.gpu_peak_mb, first.gpu_allocated_mb) == ("NVIDIA H200", 1536.0, 768.0)
    assert (first.gpu_seconds, second.gpu_seconds) == (pytest.approx(first.seconds, abs=0.05), 0)
    assert (second.gpu, second.gpu_peak_mb, second.exception) == (None, None, "RuntimeError: boom")


NO_ROOM = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 1 MiB free.\nSee the documentation"
CPU = "[enforce fail at alloc_cpu.cpp:128] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"


@pytest.mark.parametrize(
    ("error", "reason", "exception", "failure"),
    [
        (InputError("give\none"), "give\none", "InputError: one", "give\none"),
        (StageError("too far"), "too far", "StageError: too far", "too far"),
        (RuntimeError("boom"), "exception", "RuntimeError: boom", "RuntimeError: boom"),
        (ValueError("a\n\nlast line \n"), "exception", "ValueError: last line", "ValueError: last line"),
        (KeyError(), "exception", "KeyError", "KeyError"),
        (MemoryError(), "out of memory", "MemoryError", "out of memory (MemoryError)"),
        (
            torch.OutOfMemoryError(NO_ROOM),
            "out of memory on the GPU",
            "OutOfMemoryError: See the documentation",
            "out of memory on the GPU (OutOfMemoryError: See the documentation)",
        ),
        (RuntimeError(CPU), "out of memory", f"RuntimeError: {CPU}", f"out of memory (RuntimeError: {CPU})"),
        (
            PeerFailedError("rank 1: OutOfMemoryError('CUDA out of memory.')"),
            "out of memory on the GPU",
            "PeerFailedError: rank 1: OutOfMemoryError('CUDA out of memory.')",
            "out of memory on the GPU (PeerFailedError: rank 1: OutOfMemoryError('CUDA out of memory.'))",
        ),
        (OSError(12, "Cannot allocate memory"), "out of memory", "OSError: [Errno 12] Cannot allocate memory", None),
        (OSError(28, "No space left"), "no space left on the disk", "OSError: [Errno 28] No space left", None),
    ],
)
def test_why_it_failed(cell: Cell, error: Exception, reason: str, exception: str, failure: str | None) -> None:
    attempt(cell, error)
    (found,) = cell.attempts()
    assert (found.outcome, found.reason, found.exception) == ("failed", reason, exception)
    assert cell.state == "failed"
    assert cell.failure() == (failure or cell.failure())
    assert found.seconds is not None


def test_a_real_shortage_of_memory_is_recognised(cell: Cell) -> None:
    with pytest.raises(RuntimeError), cell.claim():
        torch.empty(2**60, dtype=torch.uint8)
    assert cell.attempts()[0].reason == "out of memory"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Stopped("SIGTERM"), "signal SIGTERM"),
        (Stopped("SIGUSR2"), "signal SIGUSR2"),
        (KeyboardInterrupt(), "signal SIGINT"),
    ],
)
def test_a_stopped_attempt_is_no_failure(cell: Cell, error: BaseException, reason: str) -> None:
    attempt(cell, error)
    (found,) = cell.attempts()
    assert (found.outcome, found.reason, found.exception) == ("stopped", reason, None)
    assert cell.state == "partial"
    assert cell.failure() is None


def test_a_killed_attempt_is_seen_at_once_and_closed_by_the_next(cell: Cell) -> None:
    process = hold(cell)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (found,) = cell.attempts()
    assert (found.outcome, found.reason, found.ended) == ("killed", "killed", None)
    assert (cell.state, cell.holder(), cell.failure()) == ("partial", None, None)
    attempt(cell, RuntimeError("later"))
    first, second = cell.attempts()
    assert (first.outcome, first.reason, first.pid) == ("killed", "killed", process.pid)
    assert first.ended is not None
    assert first.seconds is not None
    assert (second.number, second.outcome) == (2, "failed")


@pytest.mark.parametrize("name", stopping.SIGNALS)
def test_a_signal_in_the_middle_of_a_cell(cell: Cell, name: str) -> None:
    process = hold(cell)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"{name}: saving and stopping" in err
    (found,) = cell.attempts()
    assert (found.outcome, found.reason) == ("stopped", f"signal {name}")
    assert not (cell.folder / "lease").exists()


def test_a_signal_while_waiting_for_another_one(cell: Cell) -> None:
    """The lease of a silent holder: two minutes of patience, and not a moment longer than a signal."""
    cell.folder.mkdir(parents=True)
    (cell.folder / "lease").write_text("1\nfar-away\n")
    os.utime(cell.folder / "lease", (time.time() - 500,) * 2)
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    began = time.monotonic()
    try:
        with stopping.listen(), pytest.raises(Stopped), cell.claim():
            pytest.fail("it was held")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert time.monotonic() - began < 5
    assert cell.attempts() == []


def test_who_was_asked_to_stop_begins_nothing(cell: Cell) -> None:
    with stopping.listen():
        with stopping.polled():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), cell.claim():
            pytest.fail("it was begun")
    assert not cell.folder.exists()


def test_a_signal_while_the_end_is_written_changes_nothing(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    true = attempts.end

    def disturbed(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        true(*arguments)

    monkeypatch.setattr(attempts, "end", disturbed)
    with stopping.listen(), cell.claim():
        pass
    assert cell.state == "done"
    assert [a.outcome for a in cell.attempts()] == ["done"]
    assert not (cell.folder / "lease").exists()


def test_seconds_are_those_of_all_attempts(cell: Cell) -> None:
    for error in (RuntimeError(), Stopped("SIGTERM"), "killed", None):
        attempt(cell, error)
    assert [a.outcome for a in cell.attempts()] == ["failed", "stopped", "killed", "done"]
    assert cell.seconds() == round(sum(a.seconds or 0 for a in cell.attempts()), 3)


def test_what_a_killed_attempt_had_used_is_kept(cell: Cell) -> None:
    """A busy process says every 0.1 s what it has used; after kill -9 the cell's cost is that of both attempts."""
    process = hold(cell, busy=5.0, beat=0.1)
    until = time.monotonic() + 60
    while (cell.attempts()[0].cpu_seconds or 0) < 0.3 and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (found,) = cell.attempts()
    assert (found.outcome, found.gpu_seconds, found.cpu) == ("killed", 0, usage.cpu_model())
    assert found.cpu_seconds is not None
    assert 0.3 <= found.cpu_seconds < 5, "what it had used when it was killed, not what it was about to"
    attempt(cell)
    first, second = cell.attempts()
    assert (first.outcome, first.cpu_seconds) == ("killed", found.cpu_seconds)
    cost = cell.cost()
    assert cost is not None
    assert second.cpu_seconds is not None
    assert second.seconds is not None
    assert first.seconds is not None
    assert cost.cpu_seconds == pytest.approx(found.cpu_seconds + second.cpu_seconds)
    assert cost.seconds == pytest.approx(first.seconds + second.seconds)
    assert cost.peak_mb == max(first.peak_mb or 0, second.peak_mb or 0)
    assert (cost.attempts, cost.gpu_seconds, cost.gpus, cost.cpus) == (2, 0, (), (usage.cpu_model(),))


def test_the_cost_of_nothing_and_of_records_from_before(cell: Cell) -> None:
    assert cell.cost() is None
    attempt(cell)
    path = cell.folder / "attempts" / "001.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: record[key] for key in record if key not in ("cpu_seconds", "threads", "cpu")}))
    cost = cell.cost()
    assert cost is not None
    assert cost.cpu_seconds is None, "not known is not nothing"
    assert cost.seconds == record["seconds"]


def test_records_that_cannot_be_read_are_left_out(cell: Cell) -> None:
    attempt(cell, RuntimeError("one"))
    folder = cell.folder / "attempts"
    (folder / "002.json").write_text('{"number": 2, "ho')  # on its way
    (folder / ".003.json.abcd1234").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    assert [a.number for a in cell.attempts()] == [1]
    assert cell.state == "partial"
    (folder / "003.json").write_text(json.dumps({"number": 3, "host": "a", "pid": 1, "began": "2026-01-01T00:00:00"}))
    later = {"number": 4, "host": "a", "pid": 1, "began": "2026-01-01T00:00:00", "outcome": "done", "mood": "fine"}
    (folder / "004.json").write_text(json.dumps(later))
    assert [(a.number, a.outcome) for a in cell.attempts()] == [(1, "failed"), (3, "killed"), (4, "done")]
    attempt(cell, RuntimeError("two"))
    assert cell.attempts()[-1].number == 5
    assert set(json.loads((folder / "005.json").read_text())) == {field.name for field in dataclasses.fields(Attempt)}


def test_more_than_a_thousand_attempts_stay_in_order(cell: Cell) -> None:
    attempt(cell, RuntimeError("first"))
    record = cell.folder / "attempts" / "001.json"
    for number in (9, 10, 999, 1000):
        (record.parent / f"{number:03}.json").write_text(
            json.dumps(json.loads(record.read_text()) | {"number": number, "exception": f"E: {number}"})
        )
    assert [a.number for a in cell.attempts()] == [1, 9, 10, 999, 1000]
    assert cell.failure() == "E: 1000"


def test_what_killed_processes_leave_half_written_is_removed(cell: Cell) -> None:
    attempt(cell, Stopped("SIGTERM"))
    left = [cell.folder / name for name in (".progress.pt.x1_9abcd", ".results.csv.abcdefgh")]
    kept = [cell.folder / name for name in (".hidden", "progress.pt", ".a.b")]
    for path in left + kept:
        path.write_text("x")
    attempt(cell, Stopped("SIGTERM"))
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_a_job_that_was_put_back_waits_for_its_own_earlier_start(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another node nobody can see that the process is dead; that the same job starts again says it."""
    monkeypatch.setattr(attempts, "LEASE_SECONDS", 2.0)
    process = hold(cell, 2.0, **ARRAY)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    lease, record = cell.folder / "lease", cell.folder / "attempts" / "001.json"
    lease.write_text(lease.read_text().replace(os.uname().nodename, "far-away"))
    record.write_text(record.read_text().replace(os.uname().nodename, "far-away"))
    os.utime(lease)
    with pytest.raises(StageError, match="held by far-away"), cell.claim():
        pytest.fail("another job cannot know")
    for name, value in (ARRAY | {"SLURM_RESTART_COUNT": "1"}).items():
        monkeypatch.setenv(name, value)
    os.utime(lease)
    with cell.claim() as out:
        assert out is not None
    assert [(a.host, a.outcome) for a in cell.attempts()] == [
        ("far-away", "killed"),
        (os.uname().nodename, "done"),
    ]


# --- whether another attempt is worth it ---------------------------------------------------------------------------

BOOM, OTHER, STOP = RuntimeError("boom"), RuntimeError("other"), Stopped("SIGTERM")
OOM = [torch.OutOfMemoryError(f"CUDA out of memory. {free} MiB is free.") for free in (1, 2, 3)]


@pytest.mark.parametrize(
    ("ends", "exhausted"),
    [
        ([], False),
        ([BOOM, BOOM], False),
        ([BOOM, BOOM, BOOM], True),
        ([OTHER, BOOM, BOOM, BOOM], True),
        ([BOOM, BOOM, OTHER], False),
        ([BOOM, OTHER, BOOM], False),
        ([BOOM, ValueError("boom"), BOOM], False),
        ([BOOM, STOP, BOOM, KeyboardInterrupt(), BOOM], True),
        ([BOOM, BOOM, BOOM, STOP], True),
        ([STOP] * 5, False),
        (OOM, True),
        (["killed"] * 2, False),
        (["killed"] * 3, True),
        (["killed", STOP, "killed", "killed"], True),
        (["killed", BOOM, "killed"], False),
        ([StageError("step 3: nan")] * 3, True),
    ],
)
def test_three_times_the_same_is_enough(cell: Cell, ends: list[Any], exhausted: bool) -> None:
    for end in ends:
        attempt(cell, end)
    assert cell.exhausted(3) is exhausted
    if exhausted:
        cell.clear_failures()
        assert not cell.exhausted(3)
        assert cell.state in ("failed", "partial")
        for number in range(3):
            assert not cell.exhausted(3)
            attempt(cell, BOOM)
            assert cell.exhausted(number + 1)
        assert cell.exhausted(3)


def test_who_is_killed_again_and_again_but_gets_further_goes_on(cell: Cell) -> None:
    """A node that dies now and then, or a pre-emption without grace, is not the cell's fault."""
    for rows in (10, 20, 30, 40):
        attempt(cell, "killed", rows)
    assert not cell.exhausted(3)
    for _ in range(3):
        assert not cell.exhausted(3)
        attempt(cell, "killed", 40)
    assert cell.exhausted(3)


SLOT = Stopped("SIGUSR2")


@pytest.mark.parametrize(
    ("saved", "stalled"),
    [([0, 0, 0], True), ([0, 0], False), ([0, 1, 1], False), ([5, 5, 5, 5], True), ([1, 2, 3, 4, 5], False)],
)
def test_slots_that_save_nothing_come_to_an_end(
    cell: Cell, saved: list[int], stalled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a job whose time is too short would put itself back for ever."""
    for name, value in ARRAY.items():
        monkeypatch.setenv(name, value)
    for rows in saved:
        assert not cell.too_short
        attempt(cell, SLOT, rows)
    assert cell.too_short is stalled
    assert cell.state == ("failed" if stalled else "partial")
    assert ("give it more minutes" in str(cell.failure())) is stalled
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1235")  # submitted again, with more time
    assert not cell.too_short
    assert cell.failures()["timeout"] >= 2 * stalled


@pytest.mark.parametrize("other", [Stopped("SIGTERM"), BOOM, "killed"])
def test_only_slots_of_one_job_in_a_row_are_too_short(cell: Cell, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        attempt(cell, SLOT)
    assert cell.state == "partial"  # at a desk nobody puts them back
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    for end in (SLOT, SLOT, other, SLOT, SLOT):
        attempt(cell, end)
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    attempt(cell, SLOT)
    assert cell.state == "partial"


def test_a_running_attempt_settles_nothing(cell: Cell) -> None:
    for _ in range(3):
        attempt(cell, BOOM)
    with cell.claim():
        assert cell.exhausted(3)
        assert not cell.exhausted(4)


def test_nothing_to_clear(cell: Cell) -> None:
    cell.clear_failures()
    assert not cell.folder.exists()


def test_what_the_next_submission_should_ask_more_of(cell: Cell) -> None:
    assert cell.failures() == {"out_of_memory": 0, "timeout": 0}
    ends: list[tuple[BaseException, int]] = [
        (MemoryError(), 0),
        (Stopped("SIGUSR2"), 5),  # saved five steps
        (Stopped("SIGUSR2"), 5),  # not one more
        (Stopped("SIGTERM"), 5),
        (MemoryError(), 5),
        (torch.OutOfMemoryError("CUDA out of memory."), 5),  # a node with more memory has the same GPU
    ]
    for end, rows in ends:
        attempt(cell, end, rows)
    assert cell.failures() == {"out_of_memory": 2, "timeout": 1}


# --- quick ---------------------------------------------------------------------------------------------------------


def test_a_state_opens_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 500 cells; what it takes in seconds is in analysis/benchmarks/launching.py."""
    store = Store(tmp_path)
    cells = [store.cell(Distill.model_validate(RAW | {"seed": seed})) for seed in range(500)]
    ends: list[Callable[[Cell], None]] = [
        lambda cell: None,
        lambda cell: attempt(cell, BOOM),
        lambda cell: attempt(cell, STOP),
        lambda cell: attempt(cell, "killed"),
        lambda cell: (cell.folder.mkdir(parents=True), (cell.folder / "done.json").write_text("{}"))[0],
    ]
    for number, cell in enumerate(cells):
        ends[number % 5](cell)
    opened: list[object] = []
    plain = io.open
    for name in ("builtins.open", "io.open"):
        monkeypatch.setattr(name, lambda *given, **named: (opened.append(given[0]), plain(*given, **named))[1])
    found = [cell.state for cell in cells]
    monkeypatch.undo()
    assert 0 < len(opened) <= 2 * len(cells)
    assert found == ["missing", "failed", "partial", "partial", "done"] * 100
