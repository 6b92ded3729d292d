"""Published sets through the stages: every recipe evaluates them, and a config that says something else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.config import load as load_experiment
from pipeline.errors import InputError
from pipeline.evaluation.results import Results
from pipeline.launch import run_stage, stage_cells
from pipeline.store import Store
from tests.distilled.test_published import ddal_folder

Write = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """One set of each kind, two samples per class."""
    ddal_folder(tmp_path / "best-ckpt")
    lines = [{"sentence": f"{word} word1", "labels": number % 2} for number, word in enumerate(("bad", "good") * 2)]
    (tmp_path / "dataset_0.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with h5py.File(tmp_path / "ipc2.h5", "w") as file:
        file["data"] = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    names = {"embeddings": "best-ckpt", "text": "dataset_0.json", "vectors": "ipc2.h5"}
    return {kind: str(tmp_path / name) for kind, name in names.items()}


def run(path: Path, root: Path) -> tuple[dict[str, str], Store]:
    """What failed in the first three stages."""
    plan, store = load_experiment(path), Store(root)
    for stage in ("prepare", "distill", "evaluate"):
        outcome = run_stage(stage_cells(plan, store, stage), stage, store)
        if outcome.failed:
            break
    return outcome.failed, store


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ("embeddings", {"name": "ddal"}),
        ("embeddings", {"name": "finetune", "steps": 2}),
        ("text", {"name": "finetune", "steps": 2}),
        ("text", {"name": "ddal", "step_sizes": [0.1]}),
        ("vectors", {"name": "vectors", "student": "mlp", "steps": 3}),
    ],
)
def test_every_recipe(
    experiment: Write, files: dict[str, str], tmp_path: Path, kind: str, protocol: dict[str, Any]
) -> None:
    method = {"name": "imported", "file": files[kind], "kind": kind, "shots": 2}
    path = experiment(
        prepare={"vectors": "cls"} if kind == "vectors" else {},
        distill={"method": method, "runtime": {"threads": 1}},
        evaluate={"protocol": protocol},
    )
    failed, store = run(path, tmp_path / "ck")
    assert not failed
    (cell,) = stage_cells(load_experiment(path), store, "evaluate")
    assert Results(cell.folder / "results.csv", ("dev", "test")).done == {0, 1}


def test_the_config_says_what_it_is(experiment: Write, files: dict[str, str], tmp_path: Path) -> None:
    method = {"name": "imported", "file": files["text"], "kind": "text", "shots": 1}
    path = experiment(distill={"method": method}, evaluate={"protocol": {"name": "finetune"}})
    (reason,) = run(path, tmp_path / "ck")[0].values()
    assert "holds text, 2 samples for each of 2 classes on average; write kind: text, shots: 2" in reason


@pytest.mark.parametrize(
    ("kind", "protocol", "message"),
    [
        ("text", {"name": "ddal"}, "has no step sizes"),
        ("embeddings", {"name": "ddal", "step_sizes": [0.1]}, "has its own step sizes"),
        ("vectors", {"name": "finetune"}, "'imported' makes vectors; use vectors"),
        ("text", {"name": "vectors", "student": "mlp"}, "stored of real rows alone"),
        ("embeddings", {"name": "vectors", "student": "mlp"}, "'imported' makes embeddings of text"),
    ],
)
def test_refused_configs(
    experiment: Write, files: dict[str, str], kind: str, protocol: dict[str, Any], message: str
) -> None:
    method = {"name": "imported", "file": files[kind], "kind": kind, "shots": 2}
    path = experiment(
        prepare={"vectors": "cls"}, distill={"method": method}, evaluate={"protocol": protocol}, name="refused"
    )
    with pytest.raises(InputError, match=message):
        load_experiment(path)
