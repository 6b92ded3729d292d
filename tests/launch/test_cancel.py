"""``cancel``: the jobs of one experiment, and what it says where these are another one's; likewise ``status``."""

from __future__ import annotations

import errno
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from filelock import SoftFileLease

from pipeline import __main__
from pipeline.config import Experiment, load
from pipeline.config.cluster import Cluster
from pipeline.errors import StageError
from pipeline.launch import cancel
from pipeline.launch.plan import Live, plan
from pipeline.launch.scheduler import JobState
from pipeline.launch.stages import name_of, stage_cells
from pipeline.launch.submission import Submission
from pipeline.store import Store

Write = Callable[..., Path]
SETTING = "distill.method.labels=soft"


class Queue:
    """Stands for SLURM."""

    def __init__(self) -> None:
        self.queue: list[JobState] = []
        self.cancelled: list[str] = []

    def mine(self) -> list[JobState]:
        return self.queue

    trouble = None

    def jobs(self, ids: Iterable[str]) -> dict[str, JobState]:
        return {one.id: one for one in self.queue if one.id in set(ids)}

    def cancel(self, ids: Iterable[str]) -> None:
        self.cancelled += ids


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Queue:
    made = Queue()
    monkeypatch.setattr(cancel.Scheduler, "here", lambda: made)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return made


def submitted(experiment: Experiment, queue: Queue, tmp_path: Path, *ids: str, root: str = "root") -> Submission:
    store = Store(tmp_path / root)
    made = Submission.new(experiment, store, Path("logs"), plan(experiment, store, Cluster(), Live()), tmp_path)
    queue.queue += [JobState(job, "PENDING", name=made.job_name("distill-0")) for job in ids]
    return made


def typed(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """A command line, and what it printed."""
    monkeypatch.setattr(sys, "argv", shlex.split(words.removeprefix("python -m ")))
    with pytest.raises(SystemExit):
        __main__.main()
    return capsys.readouterr().out


def test_without_jobs_of_its_own_it_names_the_variants_that_have_some(
    experiment: Write,
    queue: Queue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = experiment()
    variant, stranger = load(path, [SETTING]), load(experiment(name="tiny2"))
    submitted(variant, queue, tmp_path, "12_0", "12_1")
    submitted(stranger, queue, tmp_path, "13")
    where = f"--root {tmp_path / 'root'}"
    said = typed(f"pipeline cancel {path} {where}", monkeypatch, capsys).splitlines()
    assert said[0] == "tiny: 0 jobs cancelled; with other settings or another root there are jobs in the queue:"
    command = f"python -m pipeline cancel {path} --set {SETTING} {where}"
    assert said[1:] == [f"  {variant.name}: 2 jobs; type: {command}"]
    assert queue.cancelled == []
    assert typed(command, monkeypatch, capsys) == f"{variant.name}: 2 jobs cancelled\n", "what it says to type does it"
    assert queue.cancelled == ["12_0", "12_1"]


def test_a_variant_without_its_settings_is_cancelled_by_its_jobs(
    experiment: Write, queue: Queue, tmp_path: Path
) -> None:
    """Submissions of earlier versions have not written down how they were typed."""
    path = experiment()
    made = submitted(load(path, [SETTING]), queue, tmp_path, "12_0", "12_1")
    whole = json.loads((made.folder / "experiment.json").read_text())
    del whole["typed"]
    (made.folder / "experiment.json").write_text(json.dumps(whole))
    said = cancel.cancel_ours(load(path), Store(tmp_path / "root"), Cluster())
    assert said.endswith("2 jobs; type: scancel '12_[0-1]'")


def test_with_jobs_of_its_own_others_are_nobodys_business(experiment: Write, queue: Queue, tmp_path: Path) -> None:
    path = experiment()
    submitted(load(path, [SETTING]), queue, tmp_path, "12")
    submitted(load(path), queue, tmp_path, "14")
    assert cancel.cancel_ours(load(path), Store(tmp_path / "root"), Cluster()) == "1 jobs cancelled"
    assert queue.cancelled == ["14"]


def test_jobs_below_another_root_are_others(
    experiment: Write,
    queue: Queue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = experiment()
    submitted(load(path), queue, tmp_path, "12", root="one")
    submitted(load(path), queue, tmp_path, "13", root="two")
    said = typed(f"pipeline cancel {path}", monkeypatch, capsys).splitlines()
    assert queue.cancelled == []
    command = f"python -m pipeline cancel {path} --root {tmp_path / 'two'}"
    assert said[2] == f"  tiny: 1 jobs; type: {command}"
    assert typed(command, monkeypatch, capsys) == "tiny: 1 jobs cancelled\n"
    assert queue.cancelled == ["13"]


def test_the_status_of_another_root_knows_nothing_of_these_jobs(
    experiment: Write,
    queue: Queue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = experiment()
    submitted(load(path), queue, tmp_path, "12").record("distill-0", "12")
    states = {}
    for root in ("root", "other"):
        said = typed(f"pipeline status {path} --json --root {tmp_path / root}", monkeypatch, capsys)
        states[root] = [row["state"] for row in json.loads(said)["cells"] if row["stage"] == "distill"]
    assert states == {"root": ["pending"], "other": ["missing"]}


def test_a_plain_job_that_is_at_a_cell_is_named_with_what_cancels_it(
    experiment: Write, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No submission explains it; those that run and retry submitted are cancelled, or another experiment's."""
    grid, store = load(experiment(grids=[{"distill.seed": [1, 2]}])), Store(tmp_path / "root")
    submitted(grid, queue, tmp_path, "12_0")
    first, second = stage_cells(grid, store, "distill")
    monkeypatch.setenv("SLURM_JOB_ID", "12_0")
    with first.claim():
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "96")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
        with second.claim():
            said = cancel.cancel_ours(grid, store, Cluster())
    where = f"96_1 at {name_of(second)}"
    assert said == f"1 jobs cancelled\n  jobs that run did not submit are at its cells ({where}); type: scancel 96_1"
    assert queue.cancelled == ["12_0"]
    assert cancel.cancel_ours(grid, store, Cluster()) == "1 jobs cancelled", "they are over"


def test_logs_of_somebody_else_are_one_sentence(
    experiment: Write, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(SoftFileLease, "acquire", refuses)
    grid, store = load(experiment()), Store(tmp_path / "root")
    with pytest.raises(StageError, match=r"tiny/submissions cannot be written from here \(Permission denied\); ask"):
        cancel.cancel_ours(grid, store, Cluster())
    (cell,) = stage_cells(grid, store, "distill")
    with pytest.raises(StageError, match=rf"{cell.folder.name} cannot be written from here"), cell.claim():
        pass
