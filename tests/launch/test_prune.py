"""What is superseded, what only looks like it, and that nothing else is ever removed."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import __main__
from pipeline.config import Experiment, load
from pipeline.config.cluster import Cluster
from pipeline.errors import InputError, StageError
from pipeline.launch import here, known, prune, prune_command, submitter
from pipeline.launch.plan import Live, plan
from pipeline.launch.prune import Found, find, readable, remove
from pipeline.launch.scheduler import JobState
from pipeline.launch.stages import MODULES, StageName, name_of, stage_cells
from pipeline.launch.submission import Submission
from pipeline.store import Cell, Store

Write = Callable[..., Path]
OLD, NEW = {"distill.seed": [1, 2]}, {"distill.seed": [2, 3]}


class Queue:
    """Stands for SLURM: the jobs of this user."""

    def __init__(self, *jobs: JobState, answers: bool = True) -> None:
        self.jobs, self.answers = jobs, answers

    def mine(self) -> list[JobState]:
        if not self.answers:
            raise StageError("SLURM does not answer (connect failure); try again later")
        return list(self.jobs)


EMPTY: Any = Queue()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune.Scheduler, "here", lambda: None)


def cells(experiment: Experiment, store: Store, *stages: StageName) -> list[Cell]:
    return [cell for stage in stages or MODULES for cell in stage_cells(experiment, store, stage)]


def make(experiment: Experiment, store: Store, *stages: StageName) -> None:
    """Makes artifacts, with what stage 2 leaves beside them."""
    for cell in cells(experiment, store, *stages):
        with cell.claim() as out:
            if out is not None:
                (out / "progress.pt").write_bytes(b"x" * 1000)
                (out / "model").mkdir()
                (out / "model" / "weights").write_bytes(b"x" * 2000)


def submitted(experiment: Experiment, store: Store, logs: Path, job: str | None) -> Submission:
    """A submission of everything that is missing; ``job`` is the id of each of its arrays."""
    planned = plan(experiment, store, Cluster(), Live())
    made = Submission.new(experiment, store, logs, planned, logs)
    for name in made.rows if job else ():
        made.record(name, str(job))
    return made


def names(found: Found, kind: str) -> set[str]:
    return {item.what for item in found.items if item.kind == kind}


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.name not in ("lock", ".digests.json")}


# --- artifacts --------------------------------------------------------------------------------------------------


def test_what_no_experiment_refers_to(experiment: Write, store: Store, logs: Path) -> None:
    old, new = load(experiment(grids=[OLD])), load(experiment(grids=[NEW]))
    make(old, store)
    make(new, store)
    for stranger in ("notes.txt", "distill/notes-12345678.txt", "distill/mine/file", "distill/mine-12345678/file"):
        (store.root / stranger).parent.mkdir(parents=True, exist_ok=True)
        (store.root / stranger).write_text("")
    (store.root / "distill" / "link-12345678").symlink_to(cells(new, store, "distill")[0].folder)
    found = find([new], store, logs, None)
    gone = {name_of(cell) for cell in cells(old, store)} - {name_of(cell) for cell in cells(new, store)}
    assert len(gone) == 2
    assert names(found, "artifact") == gone
    kept = {name_of(cell) for cell in cells(new, store)}
    assert names(found, "progress") == {f"{name}/progress.pt" for name in kept}
    assert [item.size for item in found.items if item.kind == "progress"] == [1000] * 5
    before = everything(store.root)
    freed, left = remove(found, [new], store, logs, None)
    assert left == []
    assert freed == sum(item.size for item in found.items) > 2 * 3000 + 5 * 1000
    removed = {path for path in before if any(path.is_relative_to(store.root / name) for name in gone)}
    removed |= {store.root / name / "progress.pt" for name in kept}
    assert everything(store.root) == before - removed
    assert [cell.state for cell in cells(new, store)] == ["done"] * 5
    assert find([new], store, logs, None).items == ()
    assert str(find([new], store, logs, None)) == "nothing is superseded"


def test_progress_of_what_is_not_done(experiment: Write, store: Store, logs: Path) -> None:
    grid = load(experiment())
    make(grid, store, "distill")
    (cells(grid, store, "distill")[0].folder / "done.json").unlink()
    assert find([grid], store, logs, None).items == ()


def test_what_somebody_is_at_and_what_it_reads(experiment: Write, store: Store, logs: Path) -> None:
    old, new = load(experiment(grids=[OLD], prepare={"dev": 50})), load(experiment())
    make(old, store)
    evaluated = cells(old, store, "evaluate")[0]
    (evaluated.folder / "done.json").unlink()
    with evaluated.claim():
        found = find([new], store, logs, None)
        one = {name_of(cell) for cell in cells(old.model_copy(update={"cells": old.cells[:1]}), store)}
        assert names(found, "artifact") == {name_of(cell) for cell in cells(old, store)} - one
        assert f"{name_of(evaluated)}: {os.uname().nodename} pid {os.getpid()} is at it" in found.kept
    assert names(find([new], store, logs, None), "artifact") == {name_of(cell) for cell in cells(old, store)}


def test_somebody_begins_between_the_question_and_the_answer(experiment: Write, store: Store, logs: Path) -> None:
    old, new = load(experiment(grids=[OLD])), load(experiment(grids=[NEW]))
    make(old, store, "distill")
    found, cell = find([new], store, logs, None), cells(old, store, "distill")[0]
    assert name_of(cell) in names(found, "artifact")
    (cell.folder / "done.json").unlink()
    with cell.claim() as out:
        freed, left = remove(found, [new], store, logs, None)
        assert (freed, left) == (1000, [f"{name_of(cell)}: it is in use by now"])
        assert out is not None
        assert (out / "config.json").exists()


def test_a_lease_that_was_left_over(experiment: Write, store: Store, logs: Path) -> None:
    old, new = load(experiment(grids=[{"distill.seed": [1]}])), load(experiment(grids=[{"distill.seed": [2]}]))
    make(old, store)
    left_over = '{"pid": 1}'
    for cell in cells(old, store, "distill", "evaluate"):
        (cell.folder / "lease").write_text(left_over)
    recent, ancient = (cell.folder / "lease" for cell in cells(old, store, "distill", "evaluate"))
    os.utime(recent, (time.time() - 200,) * 2)
    os.utime(ancient, (time.time() - 20000,) * 2)
    found = find([new], store, logs, None)
    assert len(names(found, "artifact")) == 2
    _, left = remove(found, [new], store, logs, None)
    assert [line.split(": ")[1] for line in left] == ["somebody was at it a moment ago; try again in half an hour"]
    assert recent.exists()
    assert not ancient.parent.exists()


def test_a_removal_that_is_broken_off_leaves_no_whole_artifact(
    experiment: Write, store: Store, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = load(experiment(grids=[OLD])), load(experiment(grids=[NEW]))
    make(old, store, "distill")

    def broken(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", broken)
    _, left = remove(find([new], store, logs, None), [new], store, logs, None)
    (cell,) = [cell for cell in cells(old, store, "distill") if cell.state != "done"]
    assert left == [f"{name_of(cell)}: Permission denied"]
    assert not (cell.folder / "lease").exists()


def test_a_path_to_an_artifact_refers_to_it(experiment: Write, store: Store, logs: Path) -> None:
    old = load(experiment(grids=[OLD]))
    make(old, store)
    first, second = cells(old, store, "distill")
    (first.folder / "distilled.h5").write_bytes(b"")
    path = experiment(method={"warm_start": str(first.folder / "distilled.h5")}, distill={"seed": 7})
    gone = names(find([load(path)], store, logs, None), "artifact")
    assert name_of(first) not in gone
    assert name_of(second) in gone


def test_data_that_are_not_on_this_machine(experiment: Write, store: Store, logs: Path, corpus_file: Path) -> None:
    """Where addresses cannot be known, everything that could be meant stays."""
    path, other = experiment(grids=[OLD]), load(experiment(method={"labels": "soft"}, name="other"))
    grid = load(path)
    make(grid, store)
    make(other, store)
    whole = yaml.safe_load(path.read_text())
    whole["base"]["prepare"]["task"]["source"]["train"] = "/not/here.jsonl"
    path.write_text(yaml.safe_dump(whole))
    assert names(find([load(path)], store, logs, None), "artifact") == {
        name_of(cell) for cell in cells(other, store, "distill", "evaluate")
    }


def test_what_belongs_to_another_user(
    experiment: Write, store: Store, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = load(experiment(grids=[OLD])), load(experiment(grids=[NEW]))
    make(old, store)
    submitted(new, store, logs, "12")
    assert len(find([new], store, logs, EMPTY).items) == 6
    monkeypatch.setattr(prune.os, "getuid", lambda: 12345)
    assert find([new], store, logs, EMPTY) == Found((), ())


# --- submissions ------------------------------------------------------------------------------------------------


def test_jobs_in_the_queue(experiment: Write, store: Store, logs: Path) -> None:
    """Their submission, their cells and what these read stay, whatever the files say by now."""
    old, new = load(experiment(grids=[OLD])), load(experiment(grids=[NEW], prepare={"dev": 50}))
    make(old, store, "prepare")
    one, two = (submitted(old, store, logs, job) for job in ("12", "13"))
    make(old, store, "distill")
    queue: Any = Queue(
        JobState("13_0", "PENDING", name=two.job_name("evaluate-0")), JobState("14", "RUNNING", name="x")
    )
    found = find([new], store, logs, queue)
    assert names(found, "submission") == {str(logs / "tiny" / "submissions" / one.folder.name)}
    assert found.kept == (f"{logs / 'tiny' / 'submissions' / two.folder.name}: job 13_0 in the queue",)
    assert names(found, "artifact") == set()
    assert names(found, "progress") == {f"{name_of(cell)}/progress.pt" for cell in cells(old, store, "prepare")}
    assert len(names(find([new], store, logs, EMPTY), "submission")) == 2
    assert len(names(find([new], store, logs, EMPTY), "artifact")) == 3
    _, left = remove(found, [new], store, logs, queue)
    assert left == []
    assert two.folder.exists()
    assert not one.folder.exists()


def test_no_slurm_to_ask(experiment: Write, store: Store, logs: Path) -> None:
    grid = load(experiment())
    submitted(grid, store, logs, "12")
    found = find([grid], store, logs, None)
    assert found.items == ()
    assert "there is no SLURM here that could be asked for its jobs" in found.kept[0]


def test_slurm_that_does_not_answer(experiment: Write, store: Store, logs: Path) -> None:
    grid = load(experiment())
    submitted(grid, store, logs, "12")
    silent: Any = Queue(answers=False)
    with pytest.raises(StageError, match="SLURM does not answer"):
        find([grid], store, logs, silent)
    found = find([grid], store, logs, EMPTY)
    before = everything(logs)
    with pytest.raises(StageError, match="SLURM does not answer"):
        remove(found, [grid], store, logs, silent)
    assert everything(logs) == before


def test_submissions_of_this_machine(experiment: Write, store: Store, logs: Path) -> None:
    grid = load(experiment())
    made = submitted(grid, store, logs, None)
    assert "it may be at work" in find([grid], store, logs, EMPTY).kept[0]
    os.utime(made.folder, (time.time() - 8 * 86400,) * 2)
    assert len(names(find([grid], store, logs, EMPTY), "submission")) == 1
    with cells(grid, store, "distill")[0].claim():
        assert "somebody is at its cells" in find([grid], store, logs, EMPTY).kept[0]
    os.utime(made.folder)
    make(grid, store)
    assert len(names(find([grid], store, logs, EMPTY), "submission")) == 1, "it is done"
    (made.folder / "submission.json").unlink()
    assert "it may be at work" in find([grid], store, logs, EMPTY).kept[0], "it is just being written"
    (logs / "tiny" / "submissions" / "mine").mkdir()
    os.utime(made.folder, (0, 0))
    assert len(names(find([grid], store, logs, EMPTY), "submission")) == 1


def test_jobs_of_plain_sbatch_may_have_any_cell(experiment: Write, store: Store, logs: Path) -> None:
    old, new = load(experiment(grids=[OLD])), load(experiment(grids=[NEW]))
    make(old, store)
    queue: Any = Queue(JobState("15_2", "PENDING", name="textdd-distill"))
    found = find([new], store, logs, queue)
    assert names(found, "artifact") == set()
    assert len(found.kept) == 2
    assert "job 15_2 was submitted by sbatch, and may want it" in found.kept[0]
    assert len(names(found, "progress")) == 5


def test_somebody_is_submitting(experiment: Write, store: Store, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = load(experiment())
    submitted(grid, store, logs, "12")
    found = find([grid], store, logs, EMPTY)
    held = prune.SoftFileLease(logs / "tiny" / "submissions" / "lock", lease_duration=120.0)
    acquire = prune.SoftFileLease.acquire
    monkeypatch.setattr("pipeline.launch.submitter.SoftFileLease.acquire", lambda lock, timeout=0: acquire(lock, 0))
    with held, pytest.raises(StageError, match="another process has been submitting tiny"):
        remove(found, [grid], store, logs, EMPTY)
    assert remove(found, [grid], store, logs, EMPTY)[1] == []


# --- logs -------------------------------------------------------------------------------------------------------


def test_the_last_logs_stay(experiment: Write, store: Store, logs: Path) -> None:
    grid = load(experiment())
    cell = cells(grid, store, "distill")[0]
    folder = logs / "tiny" / "distill"
    folder.mkdir(parents=True)
    for number in (*range(1, 5), 7, 9, 10, 11, 12):
        (folder / f"{cell.folder.name}.{number}.log").write_text("line\n")
    for other in ("notes.log", f"{cell.folder.name}.log", f"{cell.folder.name}.1.txt"):
        (folder / other).write_text("line\n")
    with cell.claim():
        assert find([grid], store, logs, None).items == ()
    found = find([grid], store, logs, None)
    assert names(found, "logs") == {f"{folder / cell.folder.name}.1-4.log"}
    assert found.items[0].size == 20
    remove(found, [grid], store, logs, None)
    kept = {f"{cell.folder.name}.{end}" for end in ("7.log", "9.log", "10.log", "11.log", "12.log", "log", "1.txt")}
    assert {path.name for path in folder.iterdir()} == {*kept, "notes.log"}


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """``python -m pipeline prune ARGUMENTS`` in a folder of its own: (status, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TEXTDD_ROOT", str(tmp_path / "root"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pipeline", "prune", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            __main__.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


def test_it_says_what_and_removes_only_when_told(
    run: Callable[..., tuple[int, str, str]], experiment: Write, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(load(experiment(grids=[OLD])), store)
    path = experiment(grids=[NEW])
    before = everything(store.root)
    status, out, _ = run(path)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("kept: what these refer to: tiny")
    assert len([line for line in lines if "no experiment refers to it" in line]) == 2
    assert len([line for line in lines if "progress.pt  (the cell is done)" in line]) == 3
    assert lines[-3].endswith(" in 5 places")
    assert lines[-2].endswith("not named above: python -m pipeline prune CONFIG --set …")
    assert lines[-1] == "nothing was removed: the same command with --yes removes it"
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    monkeypatch.setattr(prune_command.typer, "confirm", lambda question: False)
    assert run(path)[1].splitlines()[-1] == "nothing was removed"
    assert everything(store.root) == before
    monkeypatch.setattr(prune_command.typer, "confirm", lambda question: True)
    status, out, _ = run(path)
    assert status == 0
    assert out.splitlines()[-1].endswith(" kB freed")
    assert len(everything(store.root)) < len(before)
    assert run(path, "--yes")[1].splitlines()[-1] == "nothing is superseded"


def test_yes_and_what_cannot_be_removed(
    run: Callable[..., tuple[int, str, str]], experiment: Write, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(load(experiment(grids=[OLD])), store)
    monkeypatch.setattr(prune, "_remove_cell", lambda folder: "somebody was at it a moment ago")
    status, out, err = run(experiment(grids=[NEW]), "--yes")
    assert status == 2
    assert "kB freed" in out
    assert err.startswith("error: not removed: ")


def test_the_files_that_count(run: Callable[..., tuple[int, str, str]], experiment: Write, store: Store) -> None:
    """Those in configs/ as well as those given, but for clusters' files; a mistake in any of them ends it."""
    old = experiment(grids=[OLD])
    make(load(old), store)
    before = everything(store.root)
    status, _, err = run()
    assert status == 2
    assert "no experiment is here" in err
    Path("configs").mkdir()
    Path("configs/old.yaml").write_text(old.read_text())
    Path("configs/cluster.yaml").write_text("attempts: 4\n")
    Path("configs/cluster_jz.yaml").write_text("attempts: 4\n")
    new = experiment(grids=[NEW])
    status, out, _ = run(new)
    assert "refer to: old, tiny" in out
    assert "no experiment refers to it" not in out
    Path("configs/broken.yaml").write_text("base: {distil: {}}\n")
    status, out, err = run(new, "--yes")
    assert (status, out) == (2, "")
    assert "configs/broken.yaml: base.distil: unknown key (did you mean 'distill'?)" in err
    assert everything(store.root) == before
    with pytest.raises(InputError, match="broken"):
        known.experiments([])
    Path("configs/broken.yaml").unlink()
    Path("configs/jz.yaml").write_text("attempts: 4\n")
    assert [one.name for one in known.experiments([], "configs/jz.yaml")] == ["old"]


def test_sizes_for_people() -> None:
    assert [readable(size) for size in (0, 999, 1000, 12345, 5e9, 7.25e14)] == [
        "0 B", "999 B", "1.0 kB", "12 kB", "5.0 GB", "725.0 TB"
    ]  # fmt: skip


def test_the_table_has_the_largest_first(experiment: Write, store: Store, logs: Path) -> None:
    grid = load(experiment())
    make(grid, store)
    (cells(grid, store, "evaluate")[0].folder / "progress.pt").write_bytes(b"x" * 123456)
    lines = str(find([grid], store, logs, None)).splitlines()
    assert lines[0].split()[:3] == ["123", "kB", "progress"]
    assert lines[-1] == "125 kB in 3 places"


# --- runs with --set --------------------------------------------------------------------------------------------

SOFT, FREE = "distill.method.labels=soft", "distill.method.labels=unrestricted"


def test_what_was_run_with_settings_stays_until_it_is_forgotten(
    run: Callable[..., tuple[int, str, str]], experiment: Write, store: Store
) -> None:
    path = experiment()
    wanted, unknown = (load(path, [setting]) for setting in (SOFT, FREE))
    for one in (load(path), wanted, unknown):
        make(one, store, "distill", "evaluate")
    known.remember(wanted.model_copy(update={"only": (0,)}), store)
    status, out, _ = run(path)
    assert status == 0
    command = f"python -m pipeline run {path} --set {SOFT}"
    assert f"kept: what {wanted.name} refers to, run by: {command}  (--forget {wanted.name} lets it go)" in out
    gone = [line.split()[3] for line in out.splitlines() if "no experiment refers to it" in line]
    assert set(gone) == {name_of(cell) for cell in cells(unknown, store, "distill", "evaluate")}
    assert "to keep those of a run with --set that is not named above: python -m pipeline prune CONFIG --set" in out

    status, out, _ = run(path, "--set", FREE)  # as it says
    assert status == 0
    assert "no experiment refers to it" not in out
    assert f"kept: what {unknown.name} refers to" in run(path)[1], "from now on"
    before = everything(store.root)
    assert "no experiment refers to it" in run(path, "--forget", unknown.name)[1]
    assert everything(store.root) == before, "nothing is forgotten by looking"
    assert run(path, "--forget", unknown.name, "--yes")[0] == 0
    assert [cell.state for cell in cells(unknown, store, "distill", "evaluate")] == ["missing"] * 2
    assert [cell.state for cell in cells(wanted, store, "distill", "evaluate")] == ["done"] * 2
    assert unknown.name not in run(path)[1]
    status, _, err = run(path, "--forget", "tiny.set-0", "--yes")
    assert (status, err) == (2, f"error: --forget tiny.set-0: no such run is recorded; recorded: {wanted.name}\n")
    Path("configs").mkdir()
    Path("configs/tiny.yaml").write_text(path.read_text())
    assert "--set: of which experiment? type: python -m pipeline prune CONFIG --set" in run("--set", FREE)[2]


def test_a_run_that_only_its_submission_knows(
    run: Callable[..., tuple[int, str, str]], experiment: Write, store: Store, tmp_path: Path
) -> None:
    """Submitted by an earlier version: the submission goes, what it made is known from then on."""
    path = experiment()
    variant = load(path, [SOFT])
    made = submitted(variant, store, Path("logs"), "12")
    submitted(load(path, [FREE]), Store(tmp_path / "other"), Path("logs"), "13")
    make(variant, store)
    for _ in range(2):
        status, out, _ = run(path, "--yes")
        assert status == 0
        assert f"kept: what {variant.name} refers to" in out
        assert "no experiment refers to it" not in out
        if made.folder.exists():  # there is no SLURM here that would tell that its jobs are over
            shutil.rmtree(made.folder)
    assert [cell.state for cell in cells(variant, store)] == ["done"] * 3


def test_the_file_counts_and_not_what_was_run_before_it_was_edited(
    run: Callable[..., tuple[int, str, str]], experiment: Write, store: Store
) -> None:
    old = load(experiment(grids=[OLD]))
    make(old, store)
    known.remember(old, store)
    assert run(experiment(grids=[NEW]))[1].count("no experiment refers to it") == 2


def test_a_run_that_cannot_be_read_keeps_everything(
    run: Callable[..., tuple[int, str, str]], experiment: Write, store: Store
) -> None:
    path = experiment()
    variant = load(path, [SOFT])
    make(variant, store)
    known.remember(variant, store)
    record = store.root / "experiments" / f"{variant.name}.json"
    record.write_text(record.read_text().replace('"soft"', '"softest"'))
    before = everything(store.root)
    status, _, err = run(path, "--yes")
    assert status == 2
    assert "recorded by another version of the code" in err
    assert f"python -m pipeline prune --forget {variant.name}" in err
    assert everything(store.root) == before


@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_every_run_is_recorded(
    experiment: Write, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cluster: str
) -> None:
    """Before anything is computed: nothing is, here."""
    path = experiment()
    variant = load(path, [SOFT])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TEXTDD_ROOT", str(store.root))

    def no_further(*_: object, **__: object) -> None:
        raise StageError("so far")

    monkeypatch.setattr(here, "stage_cells", no_further)
    monkeypatch.setattr(submitter.Submission, "new", no_further)
    command = ["pipeline", "run", str(path), "--set", SOFT, "--only", "distill.seed=42", "--cluster", cluster]
    for more, records in ((["--dry-run"], []), ([], [f"{variant.name}.json"])):
        monkeypatch.setattr(sys, "argv", [*command, *more])
        with pytest.raises(SystemExit):
            __main__.main()
        assert [path.name for path in (store.root / "experiments").glob("*")] == records
    (found,) = known.recorded([load(path)], store, Path("logs"))
    assert (found.cells, found.only, found.typed.only) == (variant.cells, None, ())
