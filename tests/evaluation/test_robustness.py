"""The protocol ``robust`` end to end: each variant is what its name says, and nothing is trained twice or lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import stopping
from pipeline.bilevel import Adam, descend
from pipeline.config import Evaluate
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, load
from pipeline.errors import InputError
from pipeline.evaluation import robustness
from pipeline.evaluation.predictions import read
from pipeline.launch import run_stage
from pipeline.randomness import derive
from pipeline.store import Store
from pipeline.students.encoder import Student
from pipeline.students.scoring import score
from tests.conftest import carried_out, table

Write = Callable[..., Path]
METHOD = {"shots": 2, "steps": 2, "initialise": "real", "attention_labels": "cls", "labels": "unrestricted"}
SHORT = {"name": "finetune", "steps": 4}
Key = tuple[str, int, str, str]


def evaluated(path: Path, root: Path) -> tuple[Path, Evaluate]:
    experiment, store = carried_out(path, root)
    return store.cell(experiment.cells[0]).folder, experiment.cells[0]


def rows(folder: Path, name: str = "robustness.csv") -> dict[Key, str]:
    found = table(folder / name)
    keys = [(row.get("variant", "own"), int(row["initialisation"]), row["split"], row["metric"]) for row in found]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, [row["value"] for row in found], strict=True))


@pytest.fixture
def robust(experiment: Write) -> Callable[..., Path]:
    def write(name: str = "tiny", initialisations: int = 2, **protocol: object) -> Path:
        whole = {"name": "robust", "adamw": SHORT} | protocol
        evaluate = {"protocol": whole, "initialisations": initialisations, "splits": ["dev", "test"]}
        return experiment(method=METHOD, evaluate=evaluate, name=name)

    return write


def test_variants_are_what_their_names_say(robust: Callable[..., Path], experiment: Write, tmp_path: Path) -> None:
    """Against students trained here, and against the protocols ``ddal`` and ``finetune``."""
    folder, cell = evaluated(robust(), tmp_path / "ck")
    found = rows(folder)
    store = Store(tmp_path / "ck")
    prepared = Prepared(store.cell(cell.source.source).folder)
    made = load(store.cell(cell.source).folder / "distilled.h5")
    assert made.learning_rates is not None
    seed, split = derive(cell.seed, "evaluation", cell.source.seed), prepared.split("dev")

    def loss(changed: DistilledSet, dropout: bool = False, rule: Adam | None = None) -> float:
        student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], "cpu", dropout=dropout)
        more = {} if rule is None else {"optimiser": rule}
        batches = changed.inner_batches(seed, 1)
        theta = descend(
            student, student.initial(seed, 1), batches, dropping=lambda step: student.dropping(seed, 1, step), **more
        )
        logits = score(student, theta, split.batches(student.device))
        return torch.nn.functional.cross_entropy(logits, split.labels).item()

    usual = torch.full_like(made.learning_rates, 1e-3)
    expected = {
        "own": loss(made),
        "learning_rate=x3": loss(replace(made, learning_rates=made.learning_rates * 3)),
        "order=reversed": loss(replace(made, batch_order=torch.tensor([[2, 3], [0, 1]]))),
        "optimizer=adam": loss(replace(made, learning_rates=usual), rule=Adam()),
        "attention_labels=off": loss(replace(made, attention_labels=None)),
        "dropout=on": loss(made, dropout=True),
    }
    for variant, value in expected.items():
        assert float(found[variant, 1, "dev", "loss"]) == pytest.approx(value, rel=1e-5), variant
    assert len(set(expected.values())) == len(expected)
    precise, rough = (float(found[name, 1, "dev", "loss"]) for name in ("own", "precision=bf16"))
    assert 0 < abs(precise - rough) < 0.05
    protocols = {"own": {"name": "ddal"}, "optimizer=adamw": SHORT}
    for variant, protocol in protocols.items():
        evaluate = {"protocol": protocol, "initialisations": 2, "splits": ["dev", "test"]}
        other = rows(
            evaluated(experiment(method=METHOD, evaluate=evaluate, name="other"), tmp_path / "ck")[0], "results.csv"
        )
        assert {key[1:]: value for key, value in found.items() if key[0] == variant} == {
            key[1:]: value for key, value in other.items()
        }


def test_results_and_predictions_are_those_of_the_recipe(robust: Callable[..., Path], tmp_path: Path) -> None:
    folder, _ = evaluated(robust(), tmp_path / "ck")
    found, own = rows(folder), rows(folder, "results.csv")
    assert own == {key: value for key, value in found.items() if key[0] == "own"}
    predicted = read(folder / "predictions.h5", "test")
    assert predicted is not None
    right = (predicted.predicted == predicted.labels).mean(axis=1)
    assert [float(own["own", index, "test", "accuracy"]) for index in (0, 1)] == pytest.approx(right.tolist())
    assert float(found["majority", 0, "test", "accuracy"]) == 0.5
    assert {key[1] for key in found if key[0] not in ("majority",)} == {0, 1}
    splits = {key[2] for key in found if key[0] == "steps=x10"}
    assert splits == {"dev", "test"}


def test_stopped_anywhere_it_goes_on_with_the_next_student(
    robust: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = robust(orders=[], batches=[], optimizers=["adam"], steps=[], learning_rates=[3.0])
    whole, cell = evaluated(path, tmp_path / "a")
    shutil.copytree(tmp_path / "a" / "prepare", tmp_path / "b" / "prepare")
    shutil.copytree(tmp_path / "a" / "distill", tmp_path / "b" / "distill")
    store = Store(tmp_path / "b")
    trained: list[tuple[str, int]] = []
    train, stops = robustness.trained, iter((2, 5, 6))
    limit = next(stops)

    def counted(*args: object, **named: object) -> object:
        if len(trained) == limit:
            raise stopping.Stopped("SIGTERM")
        trained.append((str(args[1]), int(args[4])))  # type: ignore[call-overload]
        return train(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(robustness, "trained", counted)
    while limit:
        with pytest.raises(stopping.Stopped):
            run_stage([store.cell(cell)], "evaluate", store)
        with open(store.cell(cell).folder / "robustness.csv", "a") as file:
            file.write("own,1,dev,accuracy,0.5,0.1\nown,1,te")  # as a crash would leave it
        limit = next(stops, 0)
    limit = 10**6
    run_stage([store.cell(cell)], "evaluate", store)
    again = store.cell(cell).folder
    assert rows(again) == rows(whole)
    assert rows(again, "results.csv") == rows(whole, "results.csv")
    assert len(trained) == 12, "six variants of two initialisations, none of them twice"


def test_a_recipe_in_results_without_its_variant_is_trained_again(robust: Callable[..., Path], tmp_path: Path) -> None:
    """Killed between the two files."""
    path = robust(orders=[], batches=[], optimizers=[], steps=[], learning_rates=[])
    folder, cell = evaluated(path, tmp_path / "ck")
    before = rows(folder)
    text = (folder / "results.csv").read_text().splitlines(keepends=True)
    (folder / "results.csv").write_text("".join(line for line in text if not line.startswith("1,")))
    (folder / "done.json").unlink()
    store = Store(tmp_path / "ck")
    assert run_stage([store.cell(cell)], "evaluate", store).ran == 1
    assert rows(folder) == before
    assert {key[1] for key in rows(folder, "results.csv")} == {0, 1}


def test_real_sentences_are_varied_around_finetune(experiment: Write, tmp_path: Path) -> None:
    protocol = {"name": "robust", "own": SHORT, "steps": [2.0], "learning_rates": [10.0]}
    grids = [{"distill.method": [{"name": "random", "shots": 2}], "evaluate.protocol": [protocol]}]
    folder, _ = evaluated(experiment(grids=grids), tmp_path / "ck")
    names = list(dict.fromkeys(key[0] for key in rows(folder)))
    assert sorted(names) == sorted(
        [
            *("majority", "batch=one", "batch=half", "optimizer=sgd", "optimizer=momentum", "optimizer=adam"),
            *("learning_rate=x10", "steps=x2", "dropout=on", "precision=bf16", "own"),
        ]
    )


def test_full_data_is_refused(experiment: Write) -> None:
    with pytest.raises(InputError, match="protocol 'robust' trains some 25 students"):
        load_experiment(
            experiment(grids=[{"distill.method": [{"name": "full"}], "evaluate.protocol": [{"name": "robust"}]}])
        )
