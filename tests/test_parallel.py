"""Several processes make what one makes; what fails on one of them ends them all, soon and cleanly."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline import __main__
from pipeline.config import DDAL, Distill, load
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.distilled import load as load_set
from pipeline.errors import InputError
from pipeline.launch import run_stage, stage_cells
from pipeline.methods import outer
from pipeline.methods.learned import LearnedSet, initial_tensors
from pipeline.methods.outer import Estimation, OuterState, Portion
from pipeline.parallel import Place, Ranks, first_host
from pipeline.store import Store, attempts_of
from pipeline.store.aides import aides_of
from pipeline.students.encoder import Student
from tests.conftest import table
from tests.forked import Forked, completed, module
from tests.methods.disturbance import Disturbance, disturbed

Write = Callable[..., Path]
ODD = {"labels": "soft", "attention_labels": "cls", "steps": 2, "outer": {"steps": 5, "batch_size": 7}}
ODD |= {"validation": {"every": 2, "initialisations": 3}}


# --- who computes what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_every_row_is_seen_by_every_classifier_once(draws: int, size: int) -> None:
    rows = list(range(7))
    portions = [Portion.of(draws, Ranks(rank, size)) for rank in range(size)]
    seen = [pair for portion in portions for pair in product(portion.draws, rows[portion.rows])]
    assert sorted(seen) == sorted(product(range(draws), rows))


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (2, {"outer": {"batch_size": 7}}),
        (3, {"outer": {"batch_size": 2, "real_batches": 2}, "estimator": "unroll"}),  # the third rank has no rows
        (2, {"outer": {"batch_size": 5, "real_batches": 3}, "draws": 2, "estimator": "adjoint"}),
        (6, {"outer": {"batch_size": 5}, "draws": 4, "labels": "unrestricted"}),
        (3, {"outer": {"batch_size": 4, "sampling": "balanced", "bucket_by_length": True}, "draws": 2}),
        (2, {"outer": {"batch_size": 7, "loss": {"name": "class_weights", "beta": 0.9}}}),
        (2, {"outer": {"batch_size": 7, "loss": {"name": "logit_adjustment", "tau": 2}}}),
    ],
)
def test_the_parts_of_all_ranks_add_up(
    experiment: Write, tmp_path: Path, size: int, options: dict[str, object]
) -> None:
    """In float64, where an error of the weights could not hide behind rounding."""
    config, prepared = _prepared(experiment(method={"attention_labels": "cls", "steps": 2} | options), tmp_path)
    method = config.method
    assert isinstance(method, DDAL)
    student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], "cpu", dtype=torch.float64)

    def computed(ranks: Ranks) -> list[torch.Tensor]:
        """Loss and gradients that this rank would hand to the sum."""
        leaves = {
            name: leaf.detach().double().requires_grad_()
            for name, leaf in initial_tensors(method, prepared, student, 0).items()
        }
        estimation = Estimation.of(method, config.runtime, student)
        learned = LearnedSet(method, 2, leaves)
        run = OuterState(method, learned, student, prepared.split("train"), config.seed, estimation, ranks)
        loss = run.gradient()
        return [loss, *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves.values())]

    whole = computed(Ranks())
    parts = [computed(Ranks(rank, size)) for rank in range(size)]
    assert len(whole) >= 4
    for one, *several in zip(whole, *parts, strict=True):
        assert one.norm() > 0
        assert (sum(several) - one).norm() <= 1e-12 * one.norm()


# --- torchrun and SLURM --------------------------------------------------------------------------------------------


def test_two_processes_make_what_one_makes(experiment: Write, tmp_path: Path) -> None:
    """All four stages: a set that cannot be distilled, one that can, and one that needs no distillation."""
    grids = [
        {"distill.method": [{"labels": "hard", "sequence_length": 41}, {"labels": "soft"}]},
        {"distill.method": [{"name": "random"}], "evaluate.protocol": [{"name": "finetune", "steps": 2}]},
    ]
    path = experiment(method=ODD, grids=grids)
    places = ["--root", tmp_path / "two", "--out", tmp_path / "results"]
    two = ("--standalone", "--nproc-per-node", 2)  # interpreters
    done = completed("torch.distributed.run", *two, "-m", "pipeline", "run", path, *places, timeout=120)
    assert done.returncode != 0  # of the cell that cannot be
    assert "distill: 2 done now, 0 done before, 1 failed" in done.stderr
    assert "evaluate: 2 done now, 0 done before, 1 failed" in done.stderr, "they went on together"
    assert done.stderr.count("41 is more than the 40 usable") == 2  # once by each stage
    assert done.stderr.count("hypergradient by") == 1
    assert done.stderr.count("gradient check: fused agrees") == 1
    assert done.stdout.count("distilled set: ") == 1
    assert "Traceback" not in done.stderr.split("torch/distributed/elastic")[0]
    alone, folder = _distilled(path, tmp_path / "one", 1)
    together = tmp_path / "two" / "distill" / folder.name
    assert differences(alone, load_set(together / "distilled.h5")) < 1e-5
    for name in ("loss", "gradient_norm", "learning_rate", "validation_loss", "validation_accuracy"):
        ours, theirs = column(together, name), column(folder, name)
        assert ours == pytest.approx(theirs, rel=1e-5), name
    assert len(column(together, "loss")) == 5


def test_a_stopped_run_goes_on_with_the_tasks_of_a_slurm_step(
    experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = experiment(method=ODD)
    alone, _ = _distilled(path, tmp_path / "one")
    config, _ = _prepared(path, tmp_path / "two")
    true, calls = outer.hypergradient, []

    def stopped(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        return true(*args, **kwargs) * (float("nan") if len(calls) == 3 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(outer, "hypergradient", stopped)
    store = Store(tmp_path / "two")
    cell = store.cell(config)
    assert "step 3" in str(run_stage([cell], "distill", store).failed)
    statuses, said = ended(slurm_step([module("pipeline.stage2_distill")] * 2, path, "--root", tmp_path / "two"))
    assert statuses == [0, 0], said
    assert "resumed with ranks 2 instead of 1: not bit-equal" in said[0]
    assert said[1] == ""
    assert differences(alone, load_set(cell.folder / "distilled.h5")) < 1e-5
    assert column(cell.folder, "step") == [1, 2, 3, 4, 5]
    (aide,), cost = aides_of(cell.folder), cell.cost()
    assert [path.name for path in (cell.folder / "attempts").glob("*rank*")] == ["002.rank1.json"]
    assert cost is not None
    assert cost.cpu_seconds is not None
    own = [attempt.cpu_seconds or 0 for attempt in cell.attempts()]
    assert min(aide.cpu_seconds, *own) > 0.05
    assert cost.cpu_seconds == pytest.approx(sum(own) + aide.cpu_seconds), "of all ranks of all attempts"


def breaking(how: str) -> None:
    """The command line; rank 1 breaks in its third outer step."""
    true, calls = outer.hypergradient, []

    def hypergradient(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        if os.environ["RANK"] == "1" and len(calls) == 3:
            if how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("boom")
        return true(*args, **kwargs)

    outer.hypergradient = hypergradient
    __main__.main()


def launched(how: str) -> None:
    """What ``torchrun --standalone --nproc-per-node 2`` does, with forks in place of interpreters."""
    alone = {"min_nodes": 1, "max_nodes": 1, "max_restarts": 0, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    elastic_launch(LaunchConfig(nproc_per_node=2, start_method="fork", **alone), breaking)(how)


@pytest.mark.parametrize(("how", "reason"), [("raises", "rank 1: ValueError('boom')"), ("dies", "")])
def test_a_rank_that_fails_ends_all(experiment: Write, tmp_path: Path, how: str, reason: str) -> None:
    path = experiment(method=ODD, distill={"runtime": {"threads": 1, "save_seconds": 0}})
    places = ["--root", tmp_path / "ck", "--out", tmp_path / "results"]
    (status,), (said,) = ended([Forked(partial(launched, how), "run", path, *places, "--no-check")], timeout=60)
    assert status != 0
    (folder,) = (tmp_path / "ck" / "distill").iterdir()
    left = {file.name for file in folder.iterdir()}
    assert {"distilled.h5", "done.json"} & left == set()
    assert not any(name.startswith(".") for name in left), left
    assert torch.load(folder / "progress.pt", weights_only=True)["step"] == 2
    if reason:
        (attempt,) = attempts_of(folder)
        assert (attempt.outcome, attempt.reason) == ("failed", reason)
        assert f"failed: {reason}" in said
        assert "distill: 0 done now, 0 done before, 1 failed" in said


STEP, SCORE, LOAD = (
    "pipeline.methods.outer:hypergradient",
    "pipeline.methods.ddal:score",
    "pipeline.methods.ddal:Student.load",
)


def test_a_signal_to_one_rank_stops_all_at_the_same_step(experiment: Write, tmp_path: Path) -> None:
    """And what goes on from there ends bit-equal to two processes that nobody disturbed."""
    path = experiment(method=ODD)

    def run(root: Path, *signals: tuple[int, str, int, str]) -> tuple[list[int], list[str]]:
        calls = [
            partial(disturbed, "distill", [Disturbance(*signal) for rank, *signal in signals if rank == own])
            for own in range(2)
        ]
        return ended(slurm_step(calls, path, "--root", root))

    for root in ("whole", "stopped"):
        config, _ = _prepared(path, tmp_path / root)
    whole, stopped = (Store(tmp_path / root).cell(config) for root in ("whole", "stopped"))
    assert run(tmp_path / "whole")[0] == [0, 0]
    moments: list[tuple[list[tuple[int, str, int, str]], int, int]] = [
        ([(1, LOAD, 1, "SIGTERM")], 143, 0),  # before the first step, which is not taken
        ([(1, STEP, 2, "SIGUSR2")], 85, 2),  # the validation that is due waits
        ([(1, SCORE, 1, "SIGTERM")], 143, 2),  # the first rank has done its part of it, and drops it
        ([(0, STEP, 2, "SIGUSR2"), (1, STEP, 1, "SIGTERM")], 143, 3),  # the earlier one
    ]
    for signals, status, step in moments:
        statuses, said = run(tmp_path / "stopped", *signals)
        assert statuses == [status, status], said
        assert torch.load(stopped.folder / "progress.pt", weights_only=True)["step"] == step
        assert stopped.attempts()[-1].outcome == "stopped"
        assert "Traceback" not in "".join(said)
    assert run(tmp_path / "stopped")[0] == [0, 0]
    one, other = (vars(load_set(cell.folder / "distilled.h5")) for cell in (whole, stopped))
    names = [name for name, value in one.items() if isinstance(value, torch.Tensor)]
    assert len(names) >= 5
    assert all(torch.equal(one[name], other[name]) for name in names)
    for name in ("step", "loss", "gradient_norm", "validation_loss", "validation_accuracy"):
        assert column(whole.folder, name) == column(stopped.folder, name), name


def test_ranks_that_wait_go_home_when_the_first_one_stops(experiment: Write, tmp_path: Path) -> None:
    signal = Disturbance("pipeline.stage1_prepare:load_splits", 1, "SIGTERM")
    calls = [partial(disturbed, "prepare", signals) for signals in ([signal], [])]
    statuses, said = ended(slurm_step(calls, experiment(), "--root", tmp_path / "ck"))
    assert statuses == [143, 0], said


# --- where a process finds itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "5"}, None),  # a batch script, not a task
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "9"},
            Place(3, 4, 1, "a", 9),
        ),
        (
            {
                "SLURM_STEP_NUM_TASKS": "4",
                "SLURM_PROCID": "2",
                "SLURM_LOCALID": "0",
                "SLURM_JOB_ID": "24005",
                "SLURM_JOB_NODELIST": "gpu[07-09,12],login",
            },
            Place(2, 4, 0, "gpu07", 20005),
        ),
    ],
)
def test_the_place_of_a_process(environment: dict[str, str], place: Place | None) -> None:
    assert Place.of(environment) == place


def test_nowhere_to_meet() -> None:
    with pytest.raises(InputError, match="rank 1 of 2 processes, but nothing says where they meet"):
        Place.of({"RANK": "1", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("a-b[3,5-9]", "a-b3"), ("r[1-2]n.local,x", "r1n.local"), ("x,y[1-2]", "x")],
)
def test_the_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


# --- helpers -------------------------------------------------------------------------------------------------------


def slurm_step(calls: Sequence[Callable[[], object]], *words: object) -> list[Forked]:
    """The two tasks of a SLURM step."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": port}
    return [Forked(call, *words, environment=step | {"SLURM_PROCID": str(rank)}) for rank, call in enumerate(calls)]


def ended(tasks: list[Forked], timeout: float = 100) -> tuple[list[int], list[str]]:
    """Exit status and standard error of every task; none of them is left behind."""
    try:
        said = [task.communicate(timeout)[1] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    return [task.wait() for task in tasks], said


def _prepared(path: Path, root: Path, index: int = 0) -> tuple[Distill, Prepared]:
    experiment, store = load(path), Store(root)
    assert not run_stage(stage_cells(experiment, store, "prepare"), "prepare", store).failed
    config: Distill = experiment.cells[index].source
    return config, Prepared(store.cell(config.source).folder)


def _distilled(path: Path, root: Path, index: int = 0) -> tuple[DistilledSet, Path]:
    """One cell, by this process alone."""
    config, _ = _prepared(path, root, index)
    store = Store(root)
    cell = store.cell(config)
    assert not run_stage([cell], "distill", store).failed
    return load_set(cell.folder / "distilled.h5"), cell.folder


def differences(one: DistilledSet, other: DistilledSet) -> float:
    """The largest relative error among the learned tensors."""
    names = ("inputs_embeds", "labels", "attention_labels", "learning_rates")
    return max(float((getattr(other, name) - getattr(one, name)).norm() / getattr(one, name).norm()) for name in names)


def column(folder: Path, name: str) -> list[float]:
    return [float(row[name]) for row in table(folder / "log.csv") if row[name]]
