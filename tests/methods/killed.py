"""Stage 2 in this process, or in one that is killed and started again."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.config import load as load_experiment
from pipeline.distilled import DistilledSet, load
from pipeline.launch import run_stage, stage_cells
from pipeline.store import Store
from tests.conftest import carried_out, table
from tests.forked import Forked, module

Log = list[dict[str, str]]


def distilled(path: Path, root: Path) -> tuple[DistilledSet, Path]:
    """Stages 1 and 2 in this process; the set and its folder."""
    experiment, store = carried_out(path, root, "distill")
    folder = store.cell(experiment.cells[0].source).folder
    return load(folder / "distilled.h5"), folder


def rows(folder: Path) -> Log:
    return table(folder / "log.csv")


def same(one: DistilledSet, other: DistilledSet) -> bool:
    pairs = [(value, vars(other)[name]) for name, value in vars(one).items() if isinstance(value, torch.Tensor)]
    return len(pairs) >= 4 and all(torch.equal(a, b) for a, b in pairs)


def killed_and_resumed(path: Path, root: Path, name: str, steps: Sequence[int]) -> tuple[DistilledSet, Path]:
    """The set of a cell whose process is killed as soon as its log has so many steps, each time; and its folder."""
    command = module("pipeline.stage2_distill"), path, "--root", root
    run_stage(stage_cells(load_experiment(path), Store(root), "prepare"), "prepare", Store(root))
    target, kills = root / "distill" / name, 0
    for wanted in steps:
        process = Forked(*command)
        while process.poll() is None and not _reached(target, wanted):
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == len(steps), "the run was over before it could be killed; give it more steps"
    assert Forked(*command).wait() == 0
    return load(target / "distilled.h5"), target


def _reached(folder: Path, step: int) -> bool:
    try:
        return len((folder / "log.csv").read_text().splitlines()) > step
    except FileNotFoundError:
        return False


def assert_same_log(folder: Path, expected: Log) -> None:
    """The log of ``folder`` says of every step what ``expected`` says; only seconds may differ."""
    for name in ("step", "loss", "gradient_norm", "learning_rate", "validation_loss", "validation_accuracy"):
        assert [row[name] for row in rows(folder)] == [row[name] for row in expected], name
