"""Protocols on vectors: rows as every protocol writes them, baselines by their rows, selection on dev, variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.config import BPTT, Evaluate, OnVectors
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, Recipe, load, save
from pipeline.errors import InputError
from pipeline.evaluation.metrics import measure
from pipeline.evaluation.on_vectors import evaluate_on_vectors, samples_of
from pipeline.evaluation.predictions import read
from pipeline.evaluation.variants_on_vectors import vary_on_vectors
from pipeline.launch import run_stage
from pipeline.randomness import derive
from pipeline.store import Store
from pipeline.students.vector_training import Samples, learn, score
from pipeline.students.vectors import VectorStudent
from tests.conftest import carried_out, table

Write = Callable[..., Path]
MLP = {"name": "mlp", "width": 8}
QUICK = {"name": "vectors", "student": MLP, "steps": 30, "lr": 0.01, "batch_size": 16}


@pytest.fixture
def ready(experiment: Write, encoder_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """An evaluate cell, its prepared task, its set and its folder, everything before it done."""

    def ready(method: dict[str, Any], protocol: dict[str, Any] = QUICK, **evaluate: Any) -> Any:
        path = experiment(
            prepare={"vectors": "cls", "model": str(encoder_folder("bert", pretrained=True))},
            grids=[{"distill.method": [method], "evaluate.protocol": [protocol]}],
            evaluate=evaluate,
        )
        plan, store = carried_out(path, tmp_path / "ck", "distill")
        cell = plan.cells[0]
        prepared = Prepared(store.cell(cell.source.source).folder)
        return cell, prepared, load(store.cell(cell.source).folder / "distilled.h5"), store.cell(cell).folder

    return ready


def rows(folder: Path, name: str = "results.csv") -> list[dict[str, str]]:
    return table(folder / name)


def values(found: list[dict[str, str]]) -> dict[tuple[str, ...], float]:
    keys = ("variant", "initialisation", "split", "metric")
    return {tuple(row[key] for key in keys if key in row): float(row["value"]) for row in found}


def expected(cell: Evaluate, prepared: Prepared, samples: Samples, index: int) -> dict[str, dict[str, float]]:
    """One initialisation by itself."""
    assert cell.student is not None
    recipe = cell.recipe
    assert isinstance(recipe, OnVectors)
    student = VectorStudent(cell.student, 32, 2, "cpu")
    seed = derive(cell.seed, "evaluation", cell.source.seed)
    ((_, theta),) = learn(student, samples, recipe, seed, [index], (recipe.steps_on(len(samples)),))
    splits = {name: prepared.vectors(name) for name in cell.splits}
    return {n: measure(score(student, theta, split.vectors)[0], split.labels) for n, split in splits.items()}


def test_stage_3_writes_what_one_initialisation_after_the_other_scores(
    ready: Callable[..., Any], tmp_path: Path
) -> None:
    cell, prepared, distilled, out = ready({"name": "random", "shots": 3}, initialisations=5)
    assert cell.slug.endswith(".random.3shot.seed42.vectors-mlp")
    store = Store(tmp_path / "ck")
    run_stage([store.cell(cell)], "evaluate", store)
    found = values(rows(out))
    train = prepared.vectors("train")
    chosen = torch.tensor(distilled.about["chosen"]["rows"])
    samples = Samples(train.vectors[chosen], F.one_hot(train.labels[chosen], 2).float())
    for index in range(5):
        for split, metrics in expected(cell, prepared, samples, index).items():
            for metric, value in metrics.items():
                assert found[str(index), split, metric] == pytest.approx(value, abs=1e-4), (index, split, metric)
    predicted = read(out / "predictions.h5", "test")
    assert predicted is not None
    assert predicted.initialisations == (0, 1, 2, 3, 4)
    right = (predicted.predicted[2] == predicted.labels).mean()
    assert found["2", "test", "accuracy"] == pytest.approx(right)


def test_how_many_train_together_changes_nothing_and_what_is_there_is_kept(
    ready: Callable[..., Any], tmp_path: Path
) -> None:
    cell, prepared, distilled, _ = ready({"name": "random", "shots": 3}, initialisations=5)
    evaluate_on_vectors(cell, prepared, distilled, tmp_path / "together")
    alone = cell.model_copy(update={"protocol": cell.protocol.model_copy(update={"together": 2})})
    evaluate_on_vectors(alone, prepared, distilled, tmp_path / "pairs")
    one, other = (values(rows(tmp_path / name)) for name in ("together", "pairs"))
    assert one.keys() == other.keys()
    assert np.allclose(list(one.values()), list(other.values()), atol=1e-4)
    text = (tmp_path / "pairs" / "results.csv").read_text().splitlines()
    kept = [line for line in text if not line.startswith(("1,", "4,"))]
    (tmp_path / "pairs" / "results.csv").write_text("\n".join(kept) + "\n")
    evaluate_on_vectors(alone, prepared, distilled, tmp_path / "pairs")
    again = rows(tmp_path / "pairs")
    assert values(again).keys() == one.keys()
    assert next(line for line in again if line["initialisation"] == "0")["seconds"] == kept[1].split(",")[-1]
    assert np.allclose([values(again)[key] for key in one], list(one.values()), atol=1e-4)


def test_full_data_and_prefixes_are_looked_up(ready: Callable[..., Any]) -> None:
    cell, prepared, distilled, _ = ready({"name": "full"})
    train, samples = prepared.vectors("train"), samples_of(cell, prepared, distilled)
    assert torch.equal(samples.vectors, train.vectors)
    assert torch.equal(samples.labels.argmax(dim=1), train.labels)
    cell, prepared, distilled, _ = ready({"name": "herding", "shots": 5}, prefix=2)
    assert cell.slug.endswith(".vectors-mlp.first2")
    samples = samples_of(cell, prepared, distilled.prefix(cell.prefix))
    small, *_ = ready({"name": "herding", "shots": 2})
    _, _, of_two, _ = ready({"name": "herding", "shots": 2})
    assert len(samples) == 4
    assert torch.equal(samples.vectors, samples_of(small, prepared, of_two).vectors)


def test_the_best_moment_on_dev_is_kept(ready: Callable[..., Any], tmp_path: Path) -> None:
    protocol = QUICK | {"select": {"split": "dev", "every": 7, "by": "accuracy"}, "lr": 0.3, "optimizer": "sgd"}
    cell, prepared, distilled, _ = ready({"name": "random", "shots": 4}, protocol, initialisations=3)
    evaluate_on_vectors(cell, prepared, distilled, tmp_path / "best")
    epochs = rows(tmp_path / "best", "epochs.csv")
    samples = samples_of(cell, prepared, distilled)
    student = VectorStudent(cell.student, 32, 2, "cpu")
    seed = derive(0, "evaluation", 42)
    dev, test = prepared.vectors("dev"), prepared.vectors("test")
    found = values(rows(tmp_path / "best"))
    for index in range(3):
        path = []
        for _, theta in learn(student, samples, cell.recipe, seed, [index], (7, 14, 21, 28, 30)):
            of_dev = measure(score(student, theta, dev.vectors)[0], dev.labels)["accuracy"]
            path.append((of_dev, measure(score(student, theta, test.vectors)[0], test.labels)["loss"]))
        best = max(range(5), key=lambda at: path[at][0])
        mine = [row for row in epochs if row["initialisation"] == str(index)]
        assert [float(row["accuracy"]) for row in mine] == pytest.approx([of_dev for of_dev, _ in path])
        assert [row["kept"] for row in mine] == [str(int(at == best)) for at in range(5)]
        assert found[str(index), "test", "loss"] == pytest.approx(path[best][1], abs=1e-4)
        assert found[str(index), "dev", "accuracy"] == pytest.approx(path[best][0])


def test_sets_of_vectors_are_refused_with_another_encoder(ready: Callable[..., Any], tmp_path: Path) -> None:
    cell, prepared, _, _ = ready({"name": "random", "shots": 1})
    made = DistilledSet(
        labels=torch.eye(2),
        label_ids=torch.arange(2),
        recipe=Recipe("vectors"),
        vectors=prepared.vectors("train").vectors[:2],
        about={"vectors": prepared.manifest["vectors"], "model": {"name": "mine"}},
    )
    save(made, tmp_path / "set.h5")
    method = BPTT(name="bptt", student=cell.student)
    cell = cell.model_copy(update={"source": cell.source.model_copy(update={"method": method})})
    found = samples_of(cell, prepared, load(tmp_path / "set.h5"))
    assert torch.equal(found.vectors, prepared.vectors("train").vectors[:2])
    other = {**prepared.manifest["vectors"], "encoder_hash": "0"}
    with pytest.raises(InputError, match="sentence vectors of mine; those of another encoder"):
        samples_of(cell, prepared, replace(made, about={**made.about, "vectors": other}))
    other = {**prepared.manifest["vectors"], "pooling": "mean"}
    with pytest.raises(InputError, match="holds mean vectors and is asked for cls vectors"):
        samples_of(cell, prepared, replace(made, about={**made.about, "vectors": other}))


def test_variants_differ_in_one_thing_and_the_recipe_is_as_ever(ready: Callable[..., Any], tmp_path: Path) -> None:
    wide = {"name": "transformer", "width": 8, "heads": 2, "layers": 1, "feed_forward": 8}
    robust = {"name": "vectors_robust", "own": QUICK, "students": [wide], "steps": [0.5, 2]}
    cell, prepared, distilled, _ = ready({"name": "random", "shots": 3}, robust, initialisations=2)
    vary_on_vectors(cell, prepared, distilled, tmp_path / "robust")
    found = values(rows(tmp_path / "robust", "robustness.csv"))
    assert list(dict.fromkeys(key[0] for key in found)) == [
        "majority",
        *("optimizer=sgd", "optimizer=momentum", "optimizer=adamw"),
        *("learning_rate=x0.1", "learning_rate=x0.3", "learning_rate=x3", "learning_rate=x10"),
        *("dropout=on", "student=transformer", "steps=x0.5", "steps=x2", "own"),
    ]
    plain, *_ = ready({"name": "random", "shots": 3}, initialisations=2)
    evaluate_on_vectors(plain, prepared, distilled, tmp_path / "plain")
    own = {key[1:]: value for key, value in found.items() if key[0] == "own"}
    assert own == pytest.approx(values(rows(tmp_path / "plain")), abs=1e-5)
    assert values(rows(tmp_path / "robust")) == pytest.approx(own)
    samples = samples_of(cell, prepared, distilled)
    for name, changes in (
        ("steps=x2", {"steps": 60}),
        ("learning_rate=x3", {"lr": 0.03}),
        ("optimizer=sgd", {"optimizer": "sgd", "lr": 0.1}),
    ):
        changed = plain.model_copy(update={"protocol": plain.protocol.model_copy(update=changes)})
        wanted = expected(changed, prepared, samples, 1)["test"]["loss"]
        assert found[name, "1", "test", "loss"] == pytest.approx(wanted, rel=1e-3), name
    before = (tmp_path / "robust" / "robustness.csv").read_text()
    vary_on_vectors(cell, prepared, distilled, tmp_path / "robust")
    assert (tmp_path / "robust" / "robustness.csv").read_text() == before


def test_factors_that_round_to_one_number_of_steps_are_variants_each(ready: Callable[..., Any], tmp_path: Path) -> None:
    """Of 3 steps: x0.5 and x0.6 are 2, x2 is 6; x1.1 are 3, which are the recipe's own."""
    own = QUICK | {"steps": 3}
    robust = {"name": "vectors_robust", "own": own, "optimizers": [], "learning_rates": [], "steps": [0.5, 0.6, 1.1, 2]}
    cell, prepared, distilled, _ = ready({"name": "random", "shots": 3}, robust, initialisations=2)
    vary_on_vectors(cell, prepared, distilled, tmp_path)
    found = values(rows(tmp_path, "robustness.csv"))
    names = list(dict.fromkeys(key[0] for key in found))
    assert names == ["majority", "dropout=on", "steps=x0.5", "steps=x0.6", "steps=x2", "own"]
    of = {name: {key[1:]: value for key, value in found.items() if key[0] == name} for name in names}
    assert of["steps=x0.5"] == of["steps=x0.6"]
    assert of["steps=x0.5"] != of["own"]
    before = (tmp_path / "robustness.csv").read_text()
    vary_on_vectors(cell, prepared, distilled, tmp_path)
    assert (tmp_path / "robustness.csv").read_text() == before


@pytest.mark.parametrize(
    ("protocol", "method", "prepare", "message"),
    [
        ({"name": "vectors"}, {"name": "random"}, {}, "has no student of its own; name one"),
        ({"name": "vectors", "student": "mlp"}, {"name": "random"}, {"vectors": None}, "needs the vectors of stage 1"),
        ({"name": "vectors", "student": "mlp"}, {"name": "ddal"}, {}, "method 'ddal' makes embeddings of text"),
        ({"name": "finetune"}, {"name": "bptt"}, {}, "learns from text, and method 'bptt' makes vectors"),
        ({"name": "vectors_robust", "own": QUICK}, {"name": "full"}, {}, "on small sets, not on 'full'"),
        ({"name": "vectors_robust", "own": QUICK | {"select": "dev"}}, {"name": "random"}, {}, "own.select"),
    ],
)
def test_what_does_not_fit_is_refused(
    experiment: Write, protocol: dict[str, Any], method: dict[str, Any], prepare: dict[str, Any], message: str
) -> None:
    grids = [{"distill.method": [method], "evaluate.protocol": [protocol]}]
    with pytest.raises(InputError, match=message):
        load_experiment(experiment(prepare={"vectors": "cls"} | prepare, grids=grids))


@pytest.mark.parametrize(
    ("method", "protocol", "message"),
    [
        ({"name": "full"}, QUICK, "method 'full' has no samples per class"),
        ({"name": "random", "shots": 2}, QUICK, "prefix: 3 samples per class are more than shots: 2"),
        ({"name": "ddal"}, {"name": "ddal"}, "made for all of its samples"),
    ],
)
def test_prefixes_that_mean_nothing_are_refused(
    experiment: Write, method: dict[str, Any], protocol: dict[str, Any], message: str
) -> None:
    grids = [{"distill.method": [method], "evaluate.protocol": [protocol]}]
    with pytest.raises(InputError, match=message):
        load_experiment(experiment(prepare={"vectors": "cls"}, grids=grids, evaluate={"prefix": 3}))
