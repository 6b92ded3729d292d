"""Which epoch of a fine-tuning is kept: the best on dev, the same as worked out from what was written down."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.evaluation.results import Epochs
from pipeline.evaluation.selection import Moments
from tests.conftest import carried_out, table

Write = Callable[..., Path]
RECIPE = {"name": "finetune", "batch_size": 16, "lr": 3e-3, "warmup_ratio": 0.1}


@pytest.fixture
def evaluated(experiment: Write, encoder_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Folder, rows of ``results.csv`` and of ``epochs.csv`` after fine-tuning on the whole training split."""

    def evaluated(root: str = "ck", splits: tuple[str, ...] = ("dev", "test"), n: int = 1, **recipe: Any) -> Any:
        path = experiment(
            prepare={"model": str(encoder_folder("bert", pretrained=True))},
            evaluate={"protocol": RECIPE | recipe, "initialisations": n, "splits": list(splits)},
            grids=[{"distill.method": [{"name": "full"}]}],
        )
        plan, store = carried_out(path, tmp_path / root)
        folder = store.cell(plan.cells[0]).folder
        return folder, read(folder / "results.csv"), read(folder / "epochs.csv")

    return evaluated


def read(path: Path) -> list[dict[str, str]]:
    return table(path) if path.exists() else []


def value(rows: list[dict[str, str]], split: str, metric: str, initialisation: int = 0) -> float:
    (found,) = [
        row["value"]
        for row in rows
        if (row["split"], row["metric"], row["initialisation"]) == (split, metric, str(initialisation))
    ]
    return float(found)


@pytest.mark.parametrize("by", ["loss", "accuracy"])
def test_the_epoch_that_is_best_on_dev_is_the_one_that_is_scored(evaluated: Callable[..., Any], by: str) -> None:
    """With a schedule that ends badly: the last epoch is not the best."""
    _, results, epochs = evaluated(n=2, epochs=5, lr=2e-2, select={"by": by})
    assert [(row["initialisation"], row["epoch"]) for row in epochs] == [
        (str(i), str(e)) for i in (0, 1) for e in range(1, 6)
    ]
    for initialisation in (0, 1):
        of_run = epochs[5 * initialisation : 5 * initialisation + 5]
        scores = [float(row[by]) for row in of_run]
        best = scores.index(min(scores) if by == "loss" else max(scores))
        assert [row["kept"] for row in of_run] == [str(int(epoch == best)) for epoch in range(5)]
        for metric in ("loss", "accuracy"):
            wanted = float(of_run[best][metric])
            assert value(results, "dev", metric, initialisation) == pytest.approx(wanted, abs=1e-6)
    assert {row["kept"] for row in epochs[4::5]} != {"1"}, "a case in which the last epoch is not kept"


def test_selection_changes_what_is_kept_and_nothing_of_the_training(evaluated: Callable[..., Any]) -> None:
    _, plain, none = evaluated(epochs=3)
    _, selected, epochs = evaluated(epochs=3, select="dev")
    assert not none, "nothing is scored where nothing is selected"
    assert value(plain, "dev", "loss") == pytest.approx(float(epochs[-1]["loss"]), abs=1e-6)
    kept = [row for row in epochs if row["kept"] == "1"]
    assert value(selected, "dev", "loss") == pytest.approx(float(kept[0]["loss"]), abs=1e-6)


def test_test_is_not_looked_at_to_select(evaluated: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same epochs where test is not there to be read until the training is over."""
    _, _, wanted = evaluated(epochs=2, select="dev", splits=("dev", "test"))
    true = Prepared.split

    def split(self: Prepared, name: str) -> Split:
        assert name != "test"
        return true(self, name)

    monkeypatch.setattr(Prepared, "split", split)
    _, _, found = evaluated(root="other", epochs=2, select="dev", splits=("dev",))
    assert found == wanted


def test_test_alone_can_be_reported(evaluated: Callable[..., Any]) -> None:
    _, results, epochs = evaluated(epochs=2, select="dev", splits=("test",))
    assert {row["split"] for row in results} == {"test"}
    assert len(epochs) == 2


def test_some_rows_of_dev(evaluated: Callable[..., Any]) -> None:
    """8 of the 40: accuracies in eighths."""
    _, _, epochs = evaluated(epochs=3, lr=5e-4, select={"examples": 8})
    assert all((float(row["accuracy"]) * 8).is_integer() for row in epochs)
    _, _, others = evaluated(epochs=3, lr=5e-4, select="dev")
    assert [row["loss"] for row in epochs] != [row["loss"] for row in others]


def test_the_cost_of_selecting_is_counted(evaluated: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from pipeline.evaluation import protocols

    true, calls = protocols.score, []

    def slow(*arguments: Any) -> Any:
        calls.append(1)
        time.sleep(0.2)
        return true(*arguments)

    monkeypatch.setattr(protocols, "score", slow)
    _, results, _ = evaluated(epochs=4, select="dev", splits=("test",))
    assert len(calls) == 5
    assert float(results[0]["seconds"]) > 0.8


@pytest.mark.parametrize(
    ("by", "kept"),
    [("loss", [1, 2, 2, 2, 5]), ("accuracy", [1, 1, 1, 1, 5])],
)
def test_the_earliest_of_equals_is_kept_and_never_one_without_a_loss(tmp_path: Path, by: Any, kept: list[int]) -> None:
    """Three rows of class 0: two right, two right and surer, the same again, all right without a loss, all right."""
    moments, labels = Moments(Epochs(tmp_path / "epochs.csv"), 7, by), torch.zeros(3, dtype=torch.long)
    rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    surer = [[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]]
    nan = [[math.nan, 0.0]] * 3
    assert torch.tensor(nan).argmax(dim=-1).tolist() == [0, 0, 0]
    found = []
    for logits in (rows, surer, surer, nan, [[9.0, 0.0]] * 3):
        merit = moments.add(torch.tensor(logits), labels)
        found.append(moments.kept)
        assert moments.last_is_kept == (moments.kept == len(found))
        assert not math.isnan(merit)
    assert found == kept
    assert [(row["epoch"], row["kept"]) for row in read(tmp_path / "epochs.csv") if row["kept"] == "1"] == [("5", "1")]


def test_epochs_of_an_initialisation_that_is_trained_again_replace_the_old(tmp_path: Path) -> None:
    path = tmp_path / "epochs.csv"
    first = Epochs(path)
    for number in (0, 1):
        first.add(number, 1, 0.5, 0.25, kept=1)
        first.add(number, 2, 0.25, 0.5, kept=2)
    again = Epochs(path)
    again.add(1, 1, 0.75, 0.125, kept=1)
    assert path.read_text().splitlines() == [
        "initialisation,epoch,loss,accuracy,kept",
        "0,1,0.5,0.25,0",
        "0,2,0.25,0.5,1",
        "1,1,0.75,0.125,1",
    ]
