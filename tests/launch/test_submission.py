"""What is written down of a submission, and what jobs find there."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.config import load
from pipeline.config.cluster import Cluster
from pipeline.errors import StageError
from pipeline.launch import submission as module
from pipeline.launch.outputs import Outputs
from pipeline.launch.plan import Live, Place, plan
from pipeline.launch.queue import live_of, settle_kills, settle_unbegun
from pipeline.launch.scheduler import JobState, Scheduler
from pipeline.launch.stages import name_of, stage_cells
from pipeline.launch.status import Row, rows
from pipeline.launch.submission import Submission, all_of, check_code, jobs_of, note_code, queued
from pipeline.store import Store

Write = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def made(experiment: Write, store: Store, tmp_path: Path) -> Submission:
    grid = load(experiment(grids=[{"distill.seed": [1, 2, 3]}]))
    return Submission.new(grid, store, tmp_path / "logs", plan(grid, store, Cluster(), Live()), tmp_path / "out")


def test_it_reads_what_it_wrote(made: Submission) -> None:
    assert Submission.read(made.folder) == made
    made.record("distill-0", "77")
    again = Submission.read(made.folder)
    assert again.rows["distill-0"].job == "77"
    assert [again.rows["distill-0"].job_of(index) for index in range(3)] == ["77_0", "77_1", "77_2"]
    assert again.rows["prepare-0"].job_of(0) is None
    again.record("prepare-0", "76")
    assert again.rows["prepare-0"].job_of(0) == "76"  # an array of one is a plain job


def test_an_element_finds_its_cells_by_their_configs(made: Submission, store: Store, experiment: Write) -> None:
    grid = load(experiment(grids=[{"distill.seed": [1, 2, 3]}]))
    for stage in ("prepare", "distill", "evaluate"):
        wanted = stage_cells(grid, store, stage)  # type: ignore[arg-type]
        found = [cell for index in range(len(wanted)) for cell in made.cells(f"{stage}-0", index)]
        assert [cell.folder for cell in found] == [cell.folder.resolve() for cell in wanted]
        assert [cell.config for cell in found] == [cell.config for cell in wanted]


def test_data_that_changed_since_are_not_computed_with(
    experiment: Write, store: Store, tmp_path: Path, corpus_file: Path
) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_bytes(corpus_file.read_bytes())
    task = {"name": "mine", "source": {"kind": "files", "train": str(data)}, "text": ["text"]}
    grid = load(experiment(prepare={"task": task}))
    made = Submission.new(grid, store, tmp_path / "logs", plan(grid, store, Cluster(), Live()), tmp_path / "out")
    data.write_bytes(corpus_file.read_bytes()[:5000])
    with pytest.raises(StageError, match="data or model files changed after it was submitted"):
        made.cells("prepare-0", 0)


def test_the_code_is_copied_whole(made: Submission) -> None:
    package = Path(pipeline.__file__).parent
    files = (file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    # also what is no code, such as the paper's numbers; but not the pages for readers
    sources = {file.relative_to(package) for file in files if file.name != "README.md"}
    copied = made.folder / "code" / "pipeline"
    assert sources == {file.relative_to(copied) for file in copied.rglob("*") if file.is_file()}
    assert all((copied / file).read_bytes() == (package / file).read_bytes() for file in sources)


def test_plain_jobs_refuse_other_code(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    check_code(store.root, "tiny")  # never noted: started by hand
    note_code(store.root, "tiny")
    check_code(store.root, "tiny")
    monkeypatch.setattr(module, "code_digest", lambda: "another")
    with pytest.raises(StageError, match=r"changed since this job was submitted.* array CONFIG STAGE notes"):
        check_code(store.root, "tiny")
    with pytest.raises(StageError, match="as it is now: what a user types notes it, then scontrol requeue this job"):
        check_code(store.root, "tiny", "what a user types")


def test_jobs_of_every_cell_the_oldest_first(made: Submission, tmp_path: Path) -> None:
    made.record("distill-0", "5")
    second = Submission(made.folder.parent / "99999999-later", made.experiment, made.root, made.logs, made.out)
    second.rows = {"distill-0": made.rows["distill-0"]}
    second.save()
    second.record("distill-0", "9")
    (name,) = made.rows["distill-0"].elements[1]
    assert jobs_of(all_of(tmp_path / "logs", "tiny"))[name] == ["5_1", "9_1"]


def test_jobs_in_the_queue_are_known_by_their_names(made: Submission, tmp_path: Path) -> None:
    """Also those whose submitter died before it wrote their ids down."""
    job = JobState("31_2", "PENDING", name=made.job_name("distill-0"))
    lost = JobState("32_0", "PENDING", name="textdd.tiny.20200101-000000-aaaa.distill-0")  # its folder was removed
    last = JobState("33", "PENDING", name=made.job_name("aggregate"))
    live = live_of(tmp_path / "logs", made.root, queued(tmp_path / "logs", [job, lost, last]))
    (name,) = made.rows["distill-0"].elements[2]
    assert live.places == {name: Place("31", 2)}
    assert live.arrays["31"].size == 3
    assert name == name_of(made.cells("distill-0", 2)[0])


class Accounting:
    """A scheduler that knows how jobs ended."""

    def __init__(self, code: int = 0, **states: str) -> None:
        self.code, self.states = code, states

    def jobs(self, ids: list[str]) -> dict[str, JobState]:
        return {
            job: JobState(job, self.states[f"job{job}"], code=self.code) for job in ids if f"job{job}" in self.states
        }


def test_a_kill_that_slurm_explains_asks_for_more_memory(
    experiment: Write, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says out of memory to SLURM alone; the process that it killed wrote nothing."""
    whole = load(experiment(grids=[{"distill.seed": [1, 2, 3]}]))
    cells = stage_cells(whole, store, "distill")
    for job, cell in enumerate(cells, 1):
        monkeypatch.setenv("SLURM_JOB_ID", str(job))
        with suppress(RuntimeError), cell.claim():
            raise RuntimeError
        record = cell.folder / "attempts" / "001.json"
        unwritten = dict.fromkeys(("ended", "outcome", "reason", "exception"))  # its process did not live to do so
        record.write_text(json.dumps(json.loads(record.read_text()) | unwritten))
    settle_kills(whole, store, cast(Scheduler, Accounting(job1="OUT_OF_MEMORY", job2="TIMEOUT")), Outputs())
    assert [cell.failures()["out_of_memory"] for cell in cells] == [1, 0, 0]
    assert [cell.attempts()[-1].reason for cell in cells] == ["out of memory", "killed", "killed"]
    asked = plan(whole, store, Cluster(), Live()).of("distill")
    assert [[cell.config.seed for cell in array.cells] for array in asked] == [[1], [2, 3]]
    found = [row for row in rows(whole, store, {}, {}) if row.stage == "distill"]
    assert [(row.state, row.reason) for row in found] == [("failed", "out of memory"), *[("partial", None)] * 2]


OVER_MEMORY = "slurmstepd: error: StepId=5.0 exceeded memory limit (1086734336 > 1073741824), being killed\n"
NO_PYTHON = "sh: 1: exec: /nosuch/bin/python: not found\nsrun: error: n1: task 0: Exited with exit code 127\n"


def printed(made: Submission, index: int, text: str) -> Path:
    """What the job of an element prints itself; its array is job 5."""
    made.record("distill-0", "5")
    path = made.folder / "jobs" / "distill-0" / f"5_{index}_0_log.err"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_kill_that_the_jobs_own_output_explains_asks_for_more_memory(
    made: Submission, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without control groups SLURM kills by sampling and says so there; for its state that is a failure."""
    for index in range(2):
        (cell,) = made.cells("distill-0", index)
        monkeypatch.setenv("SLURM_JOB_ID", f"5_{index}")
        with suppress(RuntimeError), cell.claim():
            raise RuntimeError
        record = cell.folder / "attempts" / "001.json"
        unwritten = dict.fromkeys(("ended", "outcome", "reason", "exception"))
        record.write_text(json.dumps(json.loads(record.read_text()) | unwritten))
    printed(made, 0, OVER_MEMORY)
    printed(made, 1, "srun: error: n1: task 0: Killed\n")
    scheduler = cast(Scheduler, Accounting(code=9, job5_0="FAILED", job5_1="FAILED"))
    outputs, tables = Outputs.of([made]), jobs_of([made])
    states = scheduler.jobs(["5_0", "5_1"])
    found = [row for row in rows(made.whole, store, states, tables, outputs) if row.stage == "distill"]
    assert [row.reason for row in found] == ["out of memory", "exit 9", None]
    settle_kills(made.whole, store, scheduler, outputs)
    assert [made.cells("distill-0", index)[0].failures()["out_of_memory"] for index in range(3)] == [1, 0, 0]
    cancelled = cast(Scheduler, Accounting(job5_0="CANCELLED"))
    assert not outputs.out_of_memory(made.cells("distill-0", 1)[0].attempts()[0], "cancelled")
    assert [row.reason for row in rows(made.whole, store, cancelled.jobs(["5_0"]), tables, outputs)][1:2] == [
        "out of memory"
    ], "what was written down stays known"


def test_plain_sbatch_asks_for_more_after_a_kill_that_its_log_explains(
    experiment: Write, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, log = experiment(), tmp_path / "a.log"
    log.write_text(OVER_MEMORY)
    (cell,) = stage_cells(load(path), store, "distill")
    monkeypatch.setenv("TEXTDD_LOG", str(log))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with suppress(RuntimeError), cell.claim():
        raise RuntimeError
    record = cell.folder / "attempts" / "001.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | dict.fromkeys(("ended", "outcome", "reason"))))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(app, ["array", str(path), "distill", "--root", str(store.root)])
    assert "asks for more than the script gives: sbatch --array=0%64 --mem=64G" in str(done.exception), done.output


def test_a_job_that_could_not_start_its_interpreter_counts_as_an_attempt_once(made: Submission, store: Store) -> None:
    path = printed(made, 0, NO_PYTHON)
    (cell,) = made.cells("distill-0", 0)
    scheduler = cast(Scheduler, Accounting(code=127, job5_0="FAILED"))
    outputs, tables = Outputs.of([made]), jobs_of([made])

    def row() -> Row:
        found = rows(made.whole, store, scheduler.jobs(["5_0"]), tables, outputs)
        return next(one for one in found if one.name == name_of(cell))

    why = "its job ended before it began: exit 127; sh: 1: exec: /nosuch/bin/python: not found"
    assert (row().state, row().why, row().log, row().attempts) == ("failed", why, str(path), 0)
    for _ in range(2):
        settle_unbegun(made.whole, store, scheduler, [made], outputs)
        assert (row().state, row().why, row().log, row().attempts) == ("failed", why, str(path), 1)
    assert cell.exhausted(1)
    assert not cell.exhausted(2)


@pytest.mark.parametrize("code", [0, 1])
def test_other_early_ends_do_not_count(made: Submission, store: Store, code: int) -> None:
    """A job that found its set not there yet has tried nothing."""
    printed(made, 0, "StageError: its set is held by another process\n")
    state = {"job5_0": "FAILED" if code else "CANCELLED"}
    settle_unbegun(made.whole, store, cast(Scheduler, Accounting(code=code, **state)), [made], Outputs.of([made]))
    assert made.cells("distill-0", 0)[0].attempts() == []


def test_a_job_that_nobody_remembers_is_explained_by_what_it_printed(made: Submission, store: Store) -> None:
    path = printed(made, 0, NO_PYTHON)
    others = {"99": JobState("99", "PENDING")}
    found = [row for row in rows(made.whole, store, others, jobs_of([made]), Outputs.of([made])) if row.job == "5_0"]
    assert [(row.state, row.log) for row in found] == [("failed", str(path))]
    assert found[0].why.endswith("left the queue before it began; sh: 1: exec: /nosuch/bin/python: not found")


def test_submissions_below_another_root_are_others(made: Submission, tmp_path: Path) -> None:
    assert [one.folder for one in all_of(tmp_path / "logs", "tiny", tmp_path / "root")] == [made.folder]
    assert list(all_of(tmp_path / "logs", "tiny", tmp_path / "other")) == []
