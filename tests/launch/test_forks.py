"""Elements that are forks: the same results as of processes of their own, the same ends, and none is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from pipeline.config import load
from pipeline.config.cluster import Cluster
from pipeline.distilled import load as load_set
from pipeline.launch import forks, local
from pipeline.launch.forks import Fork, Template
from pipeline.launch.plan import Live, plan
from pipeline.launch.stages import stage_cells
from pipeline.launch.submission import Submission
from pipeline.stopping import Stopped
from pipeline.store import Store
from tests.conftest import carried_out

Write = Callable[..., Path]
pytestmark = pytest.mark.skipif(not forks.possible(), reason="forks are for Linux without a GPU")


@pytest.fixture
def template() -> Iterator[Template]:
    """A process that has imported everything."""
    made = Template({**os.environ, "OMP_NUM_THREADS": "1"})
    until(made.ready)
    yield made
    if made._process.poll() is None:
        made.close()


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def submitted(path: Path, folder: Path) -> tuple[Submission, Store]:
    """What is left after stage 1, as a submission."""
    experiment, store = carried_out(path, folder / "root", "prepare")
    planned = plan(experiment, store, Cluster(), Live())
    return Submission.new(experiment, store, folder / "logs", planned, folder / "out"), store


def test_they_make_what_one_process_makes(
    experiment: Write, template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, every element of two stages; one that cannot be made fails alone."""
    path = experiment(grids=[{"distill.seed": [1, 2]}, {"distill.method.sequence_length": [41]}])
    submission, store = submitted(path, tmp_path)
    monkeypatch.setattr(local.forks, "Template", lambda environment: template)
    monkeypatch.setattr(local, "command", lambda *_: pytest.fail("a process of its own"))
    ended = local.supervise(submission, at_once=2)
    assert (len(ended.well), len(ended.badly), len(ended.skipped)) == (4, 1, 1)
    plan_, alone = carried_out(experiment(grids=[{"distill.seed": [1, 2]}]), tmp_path / "alone")
    for cell in plan_.cells:
        mine, other = (load_set(one.cell(cell.source).folder / "distilled.h5") for one in (store, alone))
        assert mine.inputs_embeds is not None
        assert other.inputs_embeds is not None
        assert mine.inputs_embeds.equal(other.inputs_embeds)
        np.testing.assert_array_equal(*(results(one.cell(cell).folder) for one in (store, alone)))


def results(folder: Path) -> Any:
    """Scores, without seconds."""
    lines = [line.split(",") for line in (folder / "results.csv").read_text().splitlines()]
    return [[word for word, name in zip(line, lines[0], strict=True) if name != "seconds"] for line in lines]


def test_they_end_as_processes_do(experiment: Write, template: Template, tmp_path: Path) -> None:
    """One is asked to stop and saves, one is killed; a third has lost the process that it is a fork of."""
    long = {"outer": {"steps": 50000, "batch_size": 8}, "validation": {"split": "none"}}
    path = experiment(method=long, grids=[{"distill.seed": [1, 2, 3]}])
    submission, store = submitted(path, tmp_path)
    ((name, row),) = [(name, row) for name, row in submission.rows.items() if row.stage == "distill"]
    stopped, killed, orphan = (template.start(submission.folder, name, index) for index in range(len(row.elements)))
    until(lambda: all("step/s" in text for text in logs(tmp_path, 3)))
    assert [fork.poll() for fork in (stopped, killed, orphan)] == [None] * 3
    assert os.getpgid(stopped.pid) == stopped.pid, "a Ctrl-C at the terminal is not theirs"
    stopped.terminate()
    killed.kill()
    assert stopped.wait(60) == 143
    assert killed.wait(60) == -signal.SIGKILL
    saved = [cell for cell in stage_cells(load(path), store, "distill") if (cell.folder / "progress.pt").exists()]
    assert saved
    assert len(list((tmp_path / "root").glob("distill/*/attempts/*.json"))) == 3
    template._process.kill()
    template._process.wait()
    assert not template.ready(), "the next elements are processes of their own"
    assert orphan.poll() is None
    orphan.terminate()
    assert orphan.wait(60) == 1, "nobody knows"
    with pytest.raises(OSError, match=r"forked|Broken pipe"):
        template.start(submission.folder, name, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_reaches_forks_and_they_save(
    experiment: Write, template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    long = {"outer": {"steps": 50000, "batch_size": 8}, "validation": {"split": "none"}}
    submission, _ = submitted(experiment(method=long, grids=[{"distill.seed": [1, 2, 3]}]), tmp_path)
    monkeypatch.setattr(local.forks, "Template", lambda environment: template)

    def stop() -> None:
        until(lambda: sum("step/s" in text for text in logs(tmp_path, 2)) == 2)
        os.kill(os.getpid(), number)

    Thread(target=stop).start()
    with pytest.raises(Stopped):
        local.supervise(submission, at_once=2)
    attempts = [json.loads(path.read_text()) for path in (tmp_path / "root").glob("distill/*/attempts/*.json")]
    assert [attempt["outcome"] for attempt in attempts] == ["stopped"] * 2
    assert len(list((tmp_path / "root").glob("distill/*/progress.pt"))) == 2
    assert not template.lives


def logs(folder: Path, wanted: int) -> list[str]:
    found = [path.read_text() for path in (folder / "logs").rglob("distill/*.log")]
    return found + [""] * (wanted - len(found))


def test_an_end_is_heard_whatever_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies that come in pieces, and those of others in between."""
    monkeypatch.setattr(forks.subprocess, "Popen", lambda *words, pass_fds, **_: said.extend(map(os.dup, pass_fds)))
    said: list[int] = []
    template = Template({})
    _, replies = said
    os.write(replies, b'["ready"]\n["began", 12]\n["ended", 11, 3]\n["ended", 12, ')
    monkeypatch.setattr(Template, "lives", True)
    assert template._hear() == 12
    assert Fork(template, 11).poll() == 3
    assert template._ended == {11: 3}
    os.write(replies, b"0]\n")
    assert Fork(template, 12).wait(5) == 0
    os.write(replies, b'["began", 0]\n')
    with pytest.raises(OSError, match="nothing could be forked"):
        template.start(Path(), "a", 0)
    for number in (*said, template._requests, template._replies):
        os.close(number)
