"""Rules on scores: the formulas against scipy, the averages against students trained here one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch.nn import functional as F

from pipeline.config import Distill
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.launch import run_stage, stage_cells
from pipeline.methods.coresets.scores import best_first, cross_entropy, error_length, mean_scores, ranked
from pipeline.randomness import derive
from pipeline.store import Store
from pipeline.students.encoder import Student
from pipeline.students.finetune import finetune

Write = Callable[..., Path]
TRAINING = {"steps": 6, "batch_size": 8, "lr": 3e-3, "warmup_ratio": 0.1}


@pytest.fixture
def ready(experiment: Write, encoder_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    def ready(name: str, **method: Any) -> tuple[Distill, Prepared]:
        wanted = {"name": name, "trainings": 2, "training": TRAINING, **method}
        grids = [{"distill.method": [wanted], "evaluate.protocol": [{"name": "finetune"}]}]
        path = experiment(prepare={"model": str(encoder_folder("bert", pretrained=True))}, grids=grids)
        plan, store = load_experiment(path), Store(tmp_path / "ck")
        run_stage(stage_cells(plan, store, "prepare"), "prepare", store)
        config = plan.cells[0].source
        return config, Prepared(store.cell(config.source).folder)

    return ready


def test_the_formulas() -> None:
    logits, labels = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)) * 3, torch.arange(50) % 4
    true = np.eye(4)[labels.numpy()]
    given = logits.double().numpy()
    np.testing.assert_allclose(cross_entropy(logits, labels), -(log_softmax(given, axis=1) * true).sum(1), rtol=1e-10)
    np.testing.assert_allclose(error_length(logits, labels), np.linalg.norm(softmax(given, axis=1) - true, axis=1))
    sure = torch.tensor([[50.0, -50.0], [-50.0, 50.0]])
    np.testing.assert_allclose(error_length(sure, torch.tensor([0, 0])), [0, np.sqrt(2)], atol=1e-12)


def test_order_and_ties() -> None:
    scores = np.array([0.5, 0.1, 0.5, 0.9, 0.1])
    assert best_first(scores, highest=True).tolist() == [3, 0, 2, 1, 4]
    assert best_first(scores, highest=False).tolist() == [1, 4, 0, 2, 3]


def examples_of(prepared: Prepared) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    train = prepared.split("train")

    def examples(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        batch = train.batch(rows.tolist())
        return batch | {"labels": F.one_hot(batch["labels"], 2).float()}

    return examples


@torch.no_grad()
def scored_alone(config: Distill, prepared: Prepared, rows: list[int], number: int) -> list[tuple[float, float]]:
    """(loss, length of the error) of each row, by autograd and one sentence at a time."""
    student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], "cpu")
    student._passes = "switched off"
    train, seed = prepared.split("train"), derive(config.seed, "students of a coreset")
    start, recipe = student.initial(seed, number), config.method.training
    with torch.enable_grad():
        theta = finetune(student, start, len(train), examples_of(prepared), recipe, seed, number)
    found = []
    for row in rows:
        batch = train.batch([row])
        logits = student.logits(theta, batch)
        error = logits.softmax(dim=-1) - F.one_hot(batch["labels"], 2)
        found.append((F.cross_entropy(logits, batch["labels"]).item(), error.norm().item()))
    return found


@pytest.mark.parametrize("name", ["loss_rank", "el2n"])
def test_scores_are_means_over_students_trained_on_all_rows(ready: Callable[..., Any], name: str) -> None:
    config, prepared = ready(name)
    train, rows = prepared.split("train"), [7, 3, 100, 101]
    each = np.array([scored_alone(config, prepared, rows, number) for number in range(2)])[:, :, int(name == "el2n")]
    assert np.abs(each[0] - each[1]).max() > 1e-2, "the students differ"
    found = mean_scores(config, prepared, train.select(rows), train)
    np.testing.assert_allclose(found, each.mean(axis=0), rtol=2e-3)


@pytest.mark.parametrize("name", ["loss_rank", "el2n"])
def test_rows_are_the_extremes_of_their_class(ready: Callable[..., Any], name: str) -> None:
    chosen = {}
    for keep in ("lowest", "highest"):
        config, prepared = ready(name, keep=keep)
        train = prepared.split("train")
        labels = train.labels.numpy()
        candidates = [np.flatnonzero(labels == 0)[:30], np.flatnonzero(labels == 1)[5:40]]
        chosen[keep] = ranked(config, prepared, train, candidates, [2, 3])
        scores = mean_scores(config, prepared, train, train)
        for label, (rows, among) in enumerate(zip(chosen[keep], candidates, strict=True)):
            assert len(rows) == 2 + label
            assert set(rows.tolist()) <= set(among.tolist())
            others = scores[np.setdiff1d(among, rows)]
            worst = scores[rows].max() if keep == "lowest" else scores[rows].min()
            assert (worst <= others.min() + 1e-6) if keep == "lowest" else (worst >= others.max() - 1e-6)
    assert not {row for rows in chosen["lowest"] for row in rows} & {row for rows in chosen["highest"] for row in rows}


def test_another_seed_trains_other_students(ready: Callable[..., Any]) -> None:
    config, prepared = ready("el2n", trainings=1)
    train = prepared.split("train")
    found = [
        mean_scores(config.model_copy(update={"seed": seed}), prepared, train.select([0, 1]), train)
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-4
