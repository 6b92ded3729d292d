"""What SLURM would not take is said by a dry run, and by a submission, with what there is instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from submitit.core.utils import FailedJobError
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.config import load
from pipeline.config.cluster import Cluster
from pipeline.config.typed import Typed
from pipeline.errors import StageError
from pipeline.launch.dry_run import described
from pipeline.launch.plan import Live, plan
from pipeline.launch.refusals import mended
from pipeline.launch.slurm import Slurm
from pipeline.launch.stages import name_of, stage_cells
from pipeline.launch.submission import Submission
from pipeline.launch.submitter import Executor
from pipeline.store import Store
from pipeline.store.predictions import Prediction, remember

Write = Callable[..., Path]
NO_PARTITION = "sbatch: error: invalid partition specified: gpuu\nsbatch: error: Invalid partition name specified\n"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLURM that refuses what asks for 7 minutes; ``calls`` has what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    refuses = f"grep -q time=7 && {{ printf '{NO_PARTITION.splitlines()[1]}' >&2; exit 1; }}; exit 0"
    bodies = {"sbatch": refuses, "sinfo": "printf 'long\\ngpu\\n'", "squeue": "", "scontrol": "", "scancel": ""}
    for name, body in bodies.items():
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n{body}\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def dry(
    path: Path,
    tmp_path: Path,
    rules: Sequence[Any] = (),
    executor: Executor = "slurm",
    sound: bool = True,
    **stages: Any,
) -> list[str]:
    cluster = Cluster.model_validate({"logs": str(tmp_path / "logs"), "slurm": stages, "cells": list(rules)})
    experiment = load(path).model_copy(update={"typed": Typed(config=str(path), cluster_file="jz.yaml")})
    found = described(experiment, Store(tmp_path / "root"), cluster, executor)
    assert found.sound == sound, found.text
    return found.text.splitlines()


def test_a_dry_run_asks_once_per_request(experiment: Write, programs: Path, tmp_path: Path) -> None:
    path = experiment(grids=[{"distill.seed": [1, 2]}])
    same = {"minutes": 7, "gpus": 0, "cpus": 1, "memory_gb": 1}
    *_, last = dry(path, tmp_path, sound=False, distill=same, evaluate=same)
    assert last.endswith(
        "Invalid partition name specified; correct jz.yaml (account, partition; the partitions here are gpu, long)"
    )
    assert last.startswith("SLURM would refuse distill-0")
    calls = (programs / "calls").read_text().splitlines()
    assert len([call for call in calls if call.startswith("sbatch --test-only")]) == 2, "equal ones share a question"
    assert len([call for call in calls if call.startswith("sinfo")]) == 1


def test_a_dry_run_names_the_last_two_jobs_and_slots_that_are_too_short(
    experiment: Write, programs: Path, tmp_path: Path
) -> None:
    lines = dry(experiment(), tmp_path, distill={"minutes": 2}, aggregate={"minutes": 9})
    jobs = [line.partition(":")[0] for line in lines if " 1 job" in line]
    assert jobs == ["distill-0", "evaluate-0", "sweep", "aggregate"]
    assert "--time=9" in next(line for line in lines if line.startswith("aggregate: "))
    assert [line for line in lines if line.startswith("warning: ")] == [
        "warning: distill-0: minutes: 2 leaves no time to work: a job is told to save 60 s before its limit, and SLURM "
        "may tell it a minute too early; give it 5 or more"
    ]
    assert not any("would refuse" in line for line in lines)
    assert not (programs / "calls").read_text().count("sinfo")


def test_a_dry_run_names_entries_of_cells_that_fit_nothing(experiment: Write, programs: Path, tmp_path: Path) -> None:
    asked = [
        {"where": {"prepare.task": name, "distill.method.steps": 1}, "distill": {"minutes": 90}}
        for name in ("sst3", "reviews")
    ]
    asked[1]["where"]["distill.method.steps"] = 5
    path = experiment(method={"steps": 1})
    name, task = path.stem, load(path).cells[0].source.source.task.name
    lines = dry(path, tmp_path, [*asked, {"where": {"prepare.task": task}, "distill": {"minutes": 90}}])
    assert [line for line in lines if "fits no cell" in line] == [
        f"note: cells.0, where prepare.task: sst3, distill.method.steps: 1, fits no cell of {name}",
        f"note: cells.1, where prepare.task: reviews, distill.method.steps: 5, fits no cell of {name}",
    ]


def test_a_dry_run_without_slurm_says_that_nobody_was_asked(
    experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    notes = [line for line in dry(experiment(), tmp_path) if line.startswith("note: ")]
    assert notes == ["note: there is no SLURM here, so what it would refuse is not known; type this on a log-in node"]


def test_a_dry_run_where_slurm_does_not_answer_shows_the_plan(
    experiment: Write, programs: Path, tmp_path: Path
) -> None:
    (programs / "squeue").write_text("#!/bin/sh\necho 'could not find a config file' >&2\nexit 1\n")
    lines = dry(experiment(), tmp_path, sound=False)
    assert any(line.startswith("distill-0: ") for line in lines)
    assert lines[-1].startswith("note: SLURM does not answer (could not find a config file)")
    assert "neither what is in the queue nor what would be refused" in lines[-1]


def test_a_dry_run_on_this_machine_asks_nobody_for_anything(experiment: Write, programs: Path, tmp_path: Path) -> None:
    lines = dry(experiment(), tmp_path, executor="local")
    assert "on this machine, 2 at a time" in lines
    assert any(line.startswith("evaluate-0: ") for line in lines)
    assert not any("--" in line for line in lines), "no options of sbatch"
    assert not (programs / "calls").exists()


def test_a_refused_job_names_the_file_that_was_given(programs: Path) -> None:
    def refuses() -> None:
        raise FailedJobError(NO_PARTITION)

    submitter: Any = Slurm(None, Cluster(), "jz.yaml")  # type: ignore[arg-type]
    with pytest.raises(StageError) as caught:
        submitter._submitted("distill-0", refuses)
    assert str(caught.value).startswith("SLURM refused distill-0: invalid partition specified: gpuu; ")
    assert "correct jz.yaml (account, partition; the partitions here are gpu, long), or wait" in str(caught.value)
    submitter = Slurm(None, Cluster())  # type: ignore[arg-type]
    with pytest.raises(StageError, match=r"correct configs/cluster.yaml \(account"):
        submitter._submitted("distill-0", refuses)


def test_a_dry_run_that_slurm_would_refuse_is_no_success(
    experiment: Write, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, words = tmp_path / "site.yaml", ["--root", str(tmp_path / "root")]
    for minutes, status in ((7, 1), (8, 0)):
        stage = {"minutes": minutes, "gpus": 0, "cpus": 1, "memory_gb": 1}
        site.write_text(yaml.safe_dump({"logs": str(tmp_path / "logs"), "slurm": {"distill": stage}}))
        dry_run = ["run", str(experiment()), "--cluster", "slurm", "--dry-run", "--cluster-file", str(site), *words]
        done = CliRunner().invoke(app, dry_run)
        assert done.exit_code == status, done.output
        assert ("SLURM would refuse distill-0" in done.output) == bool(status)


def test_a_request_that_no_node_has_names_the_largest(programs: Path) -> None:
    """By the nodes that have no less of anything than another one has."""
    nodes = "128 515000 (null)\\n64 1030000+ gpu:a100:4(S:0-1)\\n64 515000 gpu:a100:4\\n32 250000 gpu:2,gpu:h100:2\\n"
    (programs / "sinfo").write_text(f"#!/bin/sh\nprintf '{nodes}'\n")
    assert mended("Memory specification can not be satisfied", None).endswith("(memory_gb: 1005), gpu:a100:4)")
    assert mended("Requested node configuration is not available", None) == (
        "correct configs/cluster.yaml (cpus, memory_gb, gpus; the largest nodes here have 128 CPUs, 515000 MB "
        "(memory_gb: 502), no GPU or 64 CPUs, 1030000 MB (memory_gb: 1005), gpu:a100:4)"
    )
    (programs / "sinfo").write_text("#!/bin/sh\nexit 1\n")
    assert mended("Requested node configuration is not available", None) == "correct configs/cluster.yaml"


def test_a_limit_on_jobs_says_what_was_submitted_and_what_makes_fewer(experiment: Write, tmp_path: Path) -> None:
    grid, store = load(experiment()), Store(tmp_path / "root")
    made = Submission.new(grid, store, tmp_path / "logs", plan(grid, store, Cluster(), Live()), tmp_path)

    def refuses() -> None:
        raise FailedJobError("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed")

    with pytest.raises(StageError) as caught:
        Slurm(made, Cluster(), given={"prepare-0": "11", "distill-0": "12"})._submitted("evaluate-0", refuses)
    assert str(caught.value) == (
        "SLURM refused evaluate-0: QOSMaxSubmitJobPerUserLimit; Batch job submission failed; submitted and left to "
        "run: prepare-0 (job 11), distill-0 (job 12); not submitted: evaluate-0, sweep, aggregate; make fewer jobs of "
        "it (cells_per_job in configs/cluster.yaml, or run --only KEY=VALUE), or wait for room in the queue, and run "
        "again: what was submitted is not submitted twice"
    )


@pytest.mark.parametrize("gpu", [None, "NVIDIA A100"])
@pytest.mark.parametrize("source", ["done", "estimated"])
def test_hours_that_were_measured_on_a_cpu_say_so(
    experiment: Write, programs: Path, tmp_path: Path, gpu: str | None, source: str
) -> None:
    path, store = experiment(grids=[{"distill.seed": [1, 2]}]), Store(tmp_path / "root")
    first, second = stage_cells(load(path), store, "distill")
    if source == "done":
        with first.claim():
            pass
        record = first.folder / "attempts" / "001.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"gpu": gpu}))
        done = json.loads((first.folder / "done.json").read_text()) | {"seconds": 36000.0}
        (first.folder / "done.json").write_text(json.dumps(done))
    else:
        remember(store.root, {name_of(second): Prediction(36000.0, 1.0, 1.0, None if gpu is None else 9.0)})
    (hours,) = (line for line in dry(path, tmp_path, distill={"minutes": 60}) if line.startswith("GPU-hours"))
    assert ": about 10.0" in hours
    said = f"measured on a CPU; for a GPU: srun --gpus=1 --cpus-per-task=4 --mem=16G python -m pipeline estimate {path}"
    assert (said in hours) == (gpu is None)
