"""What SLURM would not take is said by a dry run, and by a submission, with what there is instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import FailedJobError

from pipeline.config import load
from pipeline.config.cluster import Cluster
from pipeline.config.typed import Typed
from pipeline.errors import StageError
from pipeline.launch.dry_run import described
from pipeline.launch.slurm import Slurm
from pipeline.launch.submitter import Executor
from pipeline.store import Store

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
    path: Path, tmp_path: Path, rules: Sequence[Any] = (), executor: Executor = "slurm", **stages: Any
) -> list[str]:
    cluster = Cluster.model_validate({"logs": str(tmp_path / "logs"), "slurm": stages, "cells": list(rules)})
    experiment = load(path).model_copy(update={"typed": Typed(config=str(path), cluster_file="jz.yaml")})
    return described(experiment, Store(tmp_path / "root"), cluster, executor).splitlines()


def test_a_dry_run_asks_once_per_request(experiment: Write, programs: Path, tmp_path: Path) -> None:
    path = experiment(grids=[{"distill.seed": [1, 2]}])
    same = {"minutes": 7, "gpus": 0, "cpus": 1, "memory_gb": 1}
    *_, last = dry(path, tmp_path, distill=same, evaluate=same)
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
    lines = dry(experiment(), tmp_path)
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
        submitter._submitted(refuses)
    assert "correct jz.yaml (account, partition; the partitions here are gpu, long), or wait" in str(caught.value)
    submitter = Slurm(None, Cluster())  # type: ignore[arg-type]
    with pytest.raises(StageError, match=r"correct configs/cluster.yaml \(account"):
        submitter._submitted(refuses)
