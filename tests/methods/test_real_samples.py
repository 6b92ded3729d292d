"""Sets of real sentences as stage 2 makes them: real rows, every class, budgets, the same again; stage 3 takes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.config import Evaluate
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, load
from pipeline.launch import run_stage
from pipeline.randomness import numpy_generator
from pipeline.store import Store
from tests.conftest import carried_out, corpus

Write = Callable[..., Path]
Made = Callable[..., list[tuple[Evaluate, DistilledSet]]]
TRAINING = {"trainings": 1, "training": {"steps": 4, "lr": 1e-2}}
CORESETS: list[dict[str, Any]] = [
    {"name": "herding"},
    {"name": "herding", "pooling": "mean", "training": {"steps": 4, "lr": 1e-2}},
    {"name": "k_centres"},
    {"name": "k_centres", "centres": "kmeans"},
    {"name": "moderate"},
    {"name": "loss_rank", **TRAINING},
    {"name": "loss_rank", "keep": "highest", **TRAINING},
    {"name": "el2n", **TRAINING},
]


@pytest.fixture
def skewed(tmp_path: Path) -> str:
    """200 rows of class 0 and 50 of class 1."""
    rows = corpus(400, seed=9)
    rows = [row for row in rows if row["label"] == 0] + [row for row in rows if row["label"] == 1][:50]
    path = tmp_path / "skewed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def made(experiment: Write, skewed: str, tmp_path: Path) -> Made:
    """The cells of some methods, and what stage 2 made of them."""

    def made(methods: list[dict[str, Any]], root: str = "ck", seeds: tuple[int, ...] = (42,), **evaluate: Any) -> Any:
        task = {"name": "skewed", "source": {"kind": "files", "train": skewed}, "text": ["text"]}
        grids = [{"distill.method": methods, "distill.seed": list(seeds)}]
        path = experiment(
            prepare={"task": task}, evaluate={"protocol": {"name": "finetune", "steps": 2}} | evaluate, grids=grids
        )
        plan, store = carried_out(path, tmp_path / root, "distill")
        return [(cell, load(store.cell(cell.source).folder / "distilled.h5")) for cell in plan.cells]

    return made


def train_of(cell: Evaluate, tmp_path: Path) -> Any:
    return Prepared(Store(tmp_path / "ck").cell(cell.source.source).folder).split("train")


def test_every_coreset_is_real_rows_of_every_class(made: Made, tmp_path: Path) -> None:
    sets = made([method | {"shots": 3} for method in CORESETS])
    train = train_of(sets[0][0], tmp_path)
    assert len(sets) == len(CORESETS)
    for cell, found in sets:
        rows = found.about["chosen"]["rows"]
        assert found.recipe.name == "finetune"
        assert found.label_ids.tolist() == [0, 1, 0, 1, 0, 1]
        assert len(set(rows)) == 6
        assert found.about["chosen"]["candidates"] <= len(train)
        assert found.token_ids is not None
        for ids, label, row in zip(found.token_ids, found.label_ids, rows, strict=True):
            assert ids[ids >= 0].tolist() == train.rows[row]["input_ids"], cell.source.slug
            assert label == train.rows[row]["label"]
        assert (found.labels.argmax(dim=1) == found.label_ids).all()
    chosen = [found.about["chosen"]["rows"] for _, found in sets]
    assert chosen[-1] == chosen[-2], "one student, two classes: the longest errors are the highest losses"
    assert len(set(map(tuple, chosen[:-1]))) == len(CORESETS) - 1, "no two others choose the same"


def test_the_same_config_chooses_the_same_rows_again(made: Made) -> None:
    methods = [method | {"shots": 2, "candidates": 60} for method in CORESETS]
    first, second = ([found.about["chosen"] for _, found in made(methods, root)] for root in ("ck", "again"))
    assert first == second
    assert all(chosen["candidates"] == 60 for chosen in first)


@pytest.mark.parametrize(
    "method", [*CORESETS, {"name": "k_centres", "start": "random"}, {"name": "herding", "candidates": 40}]
)
def test_a_method_says_whether_it_follows_the_seed(made: Made, method: dict[str, Any]) -> None:
    sets = made([method | {"shots": 3}], seeds=(1, 2, 3))
    chosen = {tuple(found.about["chosen"]["rows"]) for _, found in sets}
    assert (len(chosen) > 1) == sets[0][0].source.method.is_drawn


def test_one_centroid_is_the_mean_whatever_the_seed(made: Made) -> None:
    methods = [{"name": "k_centres", "centres": "kmeans"}, {"name": "herding"}, {"name": "k_centres"}]
    sets = made(methods, seeds=(1, 2, 3))
    assert not any(cell.source.is_drawn for cell, _ in sets)
    assert len({tuple(found.about["chosen"]["rows"]) for _, found in sets}) == 1, "nor the rule: all are the same rows"


@pytest.mark.parametrize("name", ["random", "herding", "moderate"])
@pytest.mark.parametrize(("budget", "wanted"), [("uniform", [5, 5]), ("prior", [8, 2]), ("sqrt", [7, 3])])
def test_budgets(made: Made, tmp_path: Path, name: str, budget: str, wanted: list[int]) -> None:
    ((cell, found),) = made([{"name": name, "shots": 5, "budget": budget}])
    counts = np.bincount(train_of(cell, tmp_path).labels)
    assert counts[0] == pytest.approx(4 * counts[1], rel=0.05)
    assert np.bincount(found.label_ids).tolist() == wanted
    least = min(wanted)
    assert found.label_ids.tolist()[: 2 * least] == [0, 1] * least


def test_rare_classes_keep_a_sample(made: Made) -> None:
    ((_, found),) = made([{"name": "herding", "shots": 1, "budget": "prior"}])
    assert found.label_ids.tolist() == [0, 1]


def test_random_draws_are_those_of_the_first_version(made: Made, tmp_path: Path) -> None:
    ((cell, found),) = made([{"name": "random", "shots": 4}])
    labels = train_of(cell, tmp_path).labels.numpy()
    for label in (0, 1):
        draw = numpy_generator(42, "random real", label).choice(np.flatnonzero(labels == label), 4, replace=False)
        assert found.about["chosen"]["rows"][label::2] == draw.tolist()


@pytest.mark.parametrize("protocol", [{"name": "finetune", "steps": 2}, {"name": "ddal", "step_sizes": [0.1, 0.05]}])
def test_stage_3_takes_every_coreset_by_both_recipes(made: Made, tmp_path: Path, protocol: dict[str, Any]) -> None:
    sets = made([{"name": "random"}, *CORESETS], protocol=protocol, initialisations=1)
    store = Store(tmp_path / "ck")
    cells = [store.cell(cell) for cell, _ in sets]
    outcome = run_stage(cells, "evaluate", store)
    assert not outcome.failed, outcome.failed
    scores = [pd.read_csv(cell.folder / "results.csv").drop(columns="seconds").to_csv() for cell in cells]
    assert all("test,accuracy" in each for each in scores)
    chosen = [tuple(found.about["chosen"]["rows"]) for _, found in sets]
    assert len(set(scores)) == len(set(chosen)) > 4  # herding and k-centres agree on one sample per class
