"""``--cluster local``: a few processes at a time, children behind their parents, stopped together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.launch import local, machine
from pipeline.launch.local import supervise
from pipeline.launch.submission import Row, Submission
from tests.forked import Forked, completed, module

Write = Callable[..., Path]
# An element that says when it began and ended; `bad` ones fail.
_ELEMENT = """
import sys, time
folder, name, bad = sys.argv[1:]
began = time.time()
time.sleep(0.3)
open(f"{folder}/{name}", "w").write(f"{began} {time.time()}")
sys.exit(name in bad.split(","))
"""


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], dict[str, list[float]]]]:
    """Elements that take 0.3 s and leave a file each; gives a reader of (began, ended) by element."""
    (tmp_path / "ran").mkdir()

    def use(bad: str = "") -> Callable[[], dict[str, list[float]]]:
        def command(_: Submission, array: str, index: int) -> list[str]:
            return [sys.executable, "-c", _ELEMENT, str(tmp_path / "ran"), f"{array}_{index}", bad]

        monkeypatch.setattr(local, "command", command)
        monkeypatch.setattr(local.forks, "possible", lambda: False)
        return lambda: {file.name: list(map(float, file.read_text().split())) for file in (tmp_path / "ran").iterdir()}

    return use


def submission(folder: Path, *rows: Row) -> Submission:
    return Submission(folder, "pretended", folder / "root", folder / "logs", folder / "out", {r.name: r for r in rows})


def row(name: str, size: int, **more: object) -> Row:
    elements = tuple((f"{name}/{index}",) for index in range(size))
    return Row(name, "distill", **{"elements": elements} | more)  # type: ignore[arg-type]


def most_at_once(times: dict[str, list[float]]) -> int:
    return max(sum(began <= moment < ended for began, ended in times.values()) for moment, _ in times.values())


def test_a_few_at_a_time_and_children_at_once_behind_their_parents(tmp_path: Path, pretend: Callable[..., Any]) -> None:
    times = pretend()
    ended = supervise(submission(tmp_path, row("a", 4), row("b", 4, mirrors="a")), at_once=2)
    found = times()
    assert len(found) == len(ended.well) == 8
    assert most_at_once(found) == 2
    assert all(found[f"a_{i}"][1] <= found[f"b_{i}"][0] for i in range(4))


def test_an_array_waits_for_another_as_a_whole(tmp_path: Path, pretend: Callable[..., Any]) -> None:
    times = pretend()
    supervise(submission(tmp_path, row("a", 2), row("b", 2, after=("a",))), at_once=3)
    found = times()
    assert max(found["a_0"][1], found["a_1"][1]) <= min(found["b_0"][0], found["b_1"][0])


def test_an_array_behind_one_element_of_another(tmp_path: Path, pretend: Callable[..., Any]) -> None:
    times = pretend(bad="a_0")
    rows = row("a", 3), row("b", 2, mirrors="a", behind=1), row("c", 2, mirrors="a", behind=0)
    ended = supervise(submission(tmp_path, *rows), at_once=6)
    found = times()
    assert set(found) == {"a_0", "a_1", "a_2", "b_0", "b_1"}
    assert all(found["a_1"][1] <= found[f"b_{i}"][0] for i in range(2))
    assert ended.skipped == {("c", 0), ("c", 1)}


def test_a_failure_skips_its_children_and_nobody_else(tmp_path: Path, pretend: Callable[..., Any]) -> None:
    times = pretend(bad="a_1")
    ended = supervise(submission(tmp_path, row("a", 3), row("b", 3, mirrors="a"), row("c", 3, mirrors="b")), at_once=4)
    assert ended.badly == {("a", 1)}
    assert ended.skipped == {("b", 1), ("c", 1)}
    assert set(times()) == {f"{name}_{i}" for name in "abc" for i in range(3)} - {"b_1", "c_1"}


def test_empty_elements_have_nothing_to_do(tmp_path: Path, pretend: Callable[..., Any]) -> None:
    times = pretend()
    child = Row("b", "evaluate", ((), ("b/1",)), mirrors="a")
    ended = supervise(submission(tmp_path, row("a", 2), child), at_once=4)
    assert set(times()) == {"a_0", "a_1", "b_1"}
    assert ("b", 0) in ended.well


def words(path: Path, folder: Path) -> list[object]:
    """A command line: all of an experiment in processes of this machine."""
    where = ["--cluster-file", folder / "cluster.yaml", "--root", folder / "root", "--out", folder / "out"]
    return ["run", path, "--cluster", "local", *where]


def test_all_stages_in_processes(experiment: Write, tmp_path: Path) -> None:
    """A real grid with a cell that cannot be distilled; then a second run that finds everything."""
    path = experiment(grids=[{"distill.seed": [1, 2]}, {"distill.method.sequence_length": [41]}])
    (tmp_path / "cluster.yaml").write_text(json.dumps({"local": {"at_once": 3}, "logs": str(tmp_path / "logs")}))
    for _ in range(2):
        done = completed("pipeline", *words(path, tmp_path))
        assert done.returncode == 2, done.stderr
        assert "error: 1 jobs failed; python -m pipeline status /" in done.stderr
    assert "cluster.yaml says why and where" in done.stderr  # with all that was typed
    assert len(list((tmp_path / "root").glob("evaluate/*/done.json"))) == 2
    (failed,) = (tmp_path / "root").glob("distill/*/attempts/0*2.json")
    assert "sequence_length: 41" in json.loads(failed.read_text())["reason"]
    log = Path(json.loads(failed.read_text())["log"])
    assert log.parent == tmp_path / "logs" / "tiny" / "distill"
    assert "sequence_length: 41" in log.read_text()
    assert (tmp_path / "out" / "tiny.table2.md").exists()
    assert len(list((tmp_path / "logs/tiny/submissions").glob("*/code/pipeline/launch/element.py"))) == 2


@pytest.mark.parametrize(("quota", "at_once", "threads"), [("max", 1, "4"), ("max", 3, "1"), ("250000", 2, "1")])
def test_threads_are_as_many_as_there_are_cores_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, at_once: int, threads: str
) -> None:
    """Also where the system knows no affinity, and where a control group gives less."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert local._threads(at_once) == {"OMP_NUM_THREADS": threads}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert local._threads(at_once) == {}


def test_a_stop_reaches_the_children_and_they_save(experiment: Write, tmp_path: Path) -> None:
    path = experiment(method={"outer": {"steps": 5000, "batch_size": 8}, "validation": {"split": "none"}})
    (tmp_path / "cluster.yaml").write_text(json.dumps({"logs": str(tmp_path / "logs")}))
    process = Forked(module("pipeline"), *words(path, tmp_path))
    deadline = time.monotonic() + 120
    while "distill" not in "".join(str(p) for p in (tmp_path / "logs").rglob("*.log")) or not any(
        "step/s" in p.read_text() for p in (tmp_path / "logs").rglob("distill/*.log")
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    (record,) = (tmp_path / "root").glob("distill/*/attempts/*.json")
    assert json.loads(record.read_text())["outcome"] == "stopped"
    assert list((tmp_path / "root").glob("distill/*/progress.pt"))


def test_an_element_begins_without_a_word_of_python(tmp_path: Path) -> None:
    """An empty element, as an array that mirrors its parent may have: nothing to do and nothing to say."""
    empty = Submission(tmp_path, "tiny", tmp_path, tmp_path, tmp_path, {"a": Row("a", "distill", ((), ()))})
    empty.save()
    done = subprocess.run(local.command(empty, "a", 1), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
