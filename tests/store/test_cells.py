"""One process at a time on a cell; what happened to it is on record."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from pipeline.config import DDAL, Distill, Outer
from pipeline.errors import InputError, StageError
from pipeline.store import Store, attempts, cells
from pipeline.store.atomic import write_json

TASK = {"name": "t", "source": {"kind": "hub", "id": "a/b"}, "text": ["x"]}
RAW = {"source": {"task": TASK, "model": "c/d"}, "method": {"name": "ddal"}}
HOLD = """
import json, os, socket, sys, time
if sys.argv[4] != "here":
    socket.gethostname = lambda: sys.argv[4]
    real = os.uname()
    os.uname = lambda: os.uname_result((real[0], sys.argv[4], *real[2:]))
import pipeline.store.cells as cells
from pipeline.config import Distill
from pipeline.store import attempts
attempts.LEASE_SECONDS = float(sys.argv[3])
cell = cells.Store(sys.argv[1]).cell(Distill.model_validate(json.loads(sys.argv[2])))
with cell.claim() as out:
    print("held", flush=True)
    sys.stdin.readline()
    (out / "written").write_text("x")
"""
Hold = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def cell(store: Store) -> cells.Cell:
    return store.cell(Distill.model_validate(RAW))


@pytest.fixture
def hold(store: Store) -> Iterator[Hold]:
    """Starts a process that holds the cell until it reads a line."""
    started: list[subprocess.Popen[str]] = []

    def hold(lease: float = 120.0, host: str = "here") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(store.root), json.dumps(RAW), str(lease), host],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n", process.communicate()[1]
        return process

    yield hold
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def files(cell: cells.Cell) -> set[str]:
    return {path.name for path in cell.folder.iterdir()}


def contents(cell: cells.Cell) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in cell.folder.rglob("*") if path.is_file()}


def test_the_life_of_a_cell(cell: cells.Cell) -> None:
    assert cell.state == "missing"
    with cell.claim() as out:
        assert out == cell.folder
        assert cell.state == "running"
        assert f"pid {os.getpid()}" in str(cell.holder())
        (out / "result").write_text("1")
    assert cell.state == "done"
    assert files(cell) == {"config.json", "done.json", "result", "attempts"}
    record = json.loads((cell.folder / "done.json").read_text())
    assert record["identity"] == cell.digest
    assert {"git_revision", "git_dirty", "versions", "host", "time", "seconds"} <= set(record)
    assert cell.seconds() == record["seconds"] >= 0
    assert Distill.model_validate(json.loads((cell.folder / "config.json").read_text())) == cell.config


def test_an_interrupted_cell_is_begun_not_failed(cell: cells.Cell) -> None:
    with pytest.raises(KeyboardInterrupt), cell.claim():
        raise KeyboardInterrupt
    assert cell.state == "partial"
    assert cell.failure() is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InputError("the reason"), "the reason"),
        (RuntimeError("boom"), "RuntimeError: boom"),
    ],
)
def test_a_failure_is_recorded_and_forgotten_at_the_next_claim(
    cell: cells.Cell, error: BaseException, reason: str
) -> None:
    with pytest.raises(type(error)), cell.claim():
        raise error
    assert cell.state == "failed"
    assert cell.failure() == reason
    assert files(cell) == {"config.json", "attempts"}
    with cell.claim():
        assert cell.failure() is None
        time.sleep(0.05)
    assert cell.state == "done"
    assert files(cell) == {"config.json", "done.json", "attempts"}


def test_the_time_of_all_attempts_is_added_up(cell: cells.Cell) -> None:
    for _ in range(2):
        with contextlib.suppress(RuntimeError), cell.claim():
            time.sleep(0.1)
            raise RuntimeError
    with cell.claim():
        time.sleep(0.1)
    assert 0.3 <= (cell.seconds() or 0) < 2


def test_a_second_process_is_told_who_holds_the_cell(cell: cells.Cell, hold: Hold) -> None:
    holder = hold()
    assert cell.state == "running"
    before = {path: path.stat().st_mtime_ns for path in cell.folder.iterdir() if path.name != "lease"}
    with pytest.raises(StageError) as refusal, cell.claim():
        pytest.fail("two processes on one cell")
    assert f"held by {os.uname().nodename} pid {holder.pid}" in str(refusal.value)
    assert "wait for it or stop it, then run again" in str(refusal.value)
    assert {path: path.stat().st_mtime_ns for path in cell.folder.iterdir() if path.name != "lease"} == before
    holder.communicate("go on\n", timeout=20)
    assert holder.returncode == 0
    assert cell.state == "done"
    assert "written" in files(cell)


def test_a_killed_holder_frees_the_cell_at_once(cell: cells.Cell, hold: Hold) -> None:
    holder = hold()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (cell.folder / "lease").exists(), "nobody tidied up"
    assert cell.state == "partial"
    began = time.monotonic()
    with cell.claim():
        assert time.monotonic() - began < 2
        assert f"pid {os.getpid()}" in str(cell.holder())
    assert cell.state == "done"


def test_a_holder_on_another_node_is_believed_until_its_lease_runs_out(
    cell: cells.Cell, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "LEASE_SECONDS", 1.5)
    holder = hold(lease=1.5, host="far-away")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert cell.state == "running", "from here nobody can see that it died"
    with pytest.raises(StageError, match=r"held by far-away pid \d+"), cell.claim():
        pytest.fail("the lease has not run out")
    time.sleep(1.0)
    assert cell.state == "partial"
    with cell.claim():
        assert f"pid {os.getpid()}" in str(cell.holder())


def test_a_holder_that_lost_its_lease_stops_before_its_next_write(cell: cells.Cell, hold: Hold) -> None:
    holder = hold(lease=1.0)
    (cell.folder / "lease").unlink()
    _, said = holder.communicate(timeout=20) if holder.wait(20) is not None else ("", "")
    assert holder.returncode == 75
    assert "lost the lease" in said
    assert "written" not in files(cell)
    assert "done.json" not in files(cell)


# --- changed defaults ----------------------------------------------------------------------------------------------


def rewrite(cell: cells.Cell, change: Callable[[Any], None]) -> None:
    stored = json.loads((cell.folder / "config.json").read_text())
    change(stored)
    (cell.folder / "config.json").write_text(json.dumps(stored))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda stored: stored["method"]["outer"].update(lr=0.5),
            ["distill.method.outer.lr = 0.5", "that default is now 0.01", "write distill.method.outer.lr: 0.5"],
        ),
        (lambda stored: stored["source"].update(seed=7), ["prepare.seed = 7", "that default is now 42"]),
        (lambda stored: stored["source"]["task"].update(metric="f1"), ["prepare.task.metric = 'f1'", "now 'accuracy'"]),
        (lambda stored: stored["method"].update(outer=None), ["distill.method.outer = None", "that default is now"]),
    ],
)
def test_a_changed_default_is_refused_with_both_values(
    cell: cells.Cell, change: Callable[[Any], None], words: list[str]
) -> None:
    with cell.claim():
        pass
    cell.check()
    rewrite(cell, change)
    before = contents(cell)
    with pytest.raises(InputError) as refusal:
        cell.check()
    for word in [str(cell.folder), *words, "or remove this one"]:
        assert word in str(refusal.value)
    with pytest.raises(InputError), cell.claim():
        pytest.fail("claimed in spite of another default")
    assert contents(cell) == before


def test_a_field_that_came_later_counts_as_its_first_value(cell: cells.Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    with cell.claim():
        pass
    rewrite(cell, lambda stored: stored["method"]["outer"].pop("warmup_ratio"))
    cell.check()

    class OuterLater(Outer):
        momentum: float = Field(0.9, json_schema_extra={"introduced": 0.8})

    class DDALLater(DDAL):
        outer: OuterLater = OuterLater()

    class DistillLater(Distill):
        method: DDALLater

    monkeypatch.setitem(cells.STAGE_NAMES, DistillLater, "distill")
    later = cells.Cell(DistillLater.model_validate(RAW), cell.folder, cell.digest)
    with pytest.raises(InputError, match=r"distill\.method\.outer\.momentum = 0\.8, but that default is now 0\.9"):
        later.check()


def test_runtime_and_places_may_differ(cell: cells.Cell) -> None:
    with cell.claim():
        pass
    rewrite(cell, lambda stored: stored["runtime"].update(device="cuda:5"))
    rewrite(cell, lambda stored: stored["source"]["model"].update(name="/moved/here"))
    cell.check()


def test_the_seconds_of_a_killed_attempt_are_counted(cell: cells.Cell) -> None:
    """As kill -9 leaves it: a holder that is gone, a lease refreshed 50 s after the start, a file written at 70 s."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    began = datetime.fromtimestamp(time.time() - 100, UTC).isoformat()
    record = {"number": 1, "pid": gone.pid, "host": os.uname().nodename, "began": began}
    write_json(cell.folder / "attempts" / "001.json", record)
    (cell.folder / "lease").write_text(f"{gone.pid}\n{os.uname().nodename}\n")
    os.utime(cell.folder / "lease", (time.time() - 50, time.time() - 50))
    later = cell.folder / "progress.pt"
    later.write_text("")
    os.utime(later, (time.time() - 30, time.time() - 30))
    with pytest.raises(KeyboardInterrupt), cell.claim():
        raise KeyboardInterrupt
    assert 69 < (cell.attempts()[0].seconds or 0) < 80
    with cell.claim() as out:
        assert out is not None
    seconds = cell.seconds()
    assert seconds is not None
    assert 69 < seconds < 80


def test_a_cell_that_was_finished_while_waiting_is_not_made_again(cell: cells.Cell) -> None:
    with cell.claim():
        pass
    done = (cell.folder / "done.json").read_bytes()
    with cell.claim() as out:
        assert out is None
    assert (cell.folder / "done.json").read_bytes() == done
