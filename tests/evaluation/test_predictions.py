"""Per-example predictions: what was answered, compactly, in step with the results."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.errors import InputError
from pipeline.evaluation.metrics import decisions
from pipeline.evaluation.predictions import Predicted, Predictions, read
from pipeline.evaluation.results import Results
from pipeline.launch import run_stage, stage_cells
from pipeline.store import Store
from tests.conftest import carried_out, table
from tests.methods.disturbance import Disturbance, launch

Write = Callable[..., Path]
LABELS = {"dev": np.array([0, 1, 2]), "test": np.array([2, 1, 0, 1])}


def added(path: Path, *numbers: int) -> Predictions:
    predictions = Predictions(path, LABELS, 3)
    for number in numbers:
        predictions.add(number, {split: (true + number) % 3 for split, true in LABELS.items()})
    return predictions


def there(path: Path, split: str) -> Predicted:
    found = read(path, split)
    assert found is not None
    return found


# --- the file ------------------------------------------------------------------------------------------------------


def test_what_was_added_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "predictions.h5"
    added(path, 3, 0)
    for split, true in LABELS.items():
        found = there(path, split)
        assert (found.classes, found.initialisations) == (3, (0, 3))
        assert found.labels.tolist() == true.tolist()
        assert found.predicted.tolist() == [true.tolist(), ((true + 3) % 3).tolist()]
    assert read(path, "train") is None
    assert read(tmp_path / "nothing.h5", "test") is None


@pytest.mark.parametrize(("classes", "kind"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (70_000, "uint32")])
def test_classes_take_the_smallest_unsigned_integer(tmp_path: Path, classes: int, kind: str) -> None:
    path = tmp_path / "predictions.h5"
    true = np.array([0, classes - 1])
    Predictions(path, {"test": true}, classes).add(0, {"test": true[::-1]})
    with h5py.File(path) as file:
        assert {file["test/predicted"].dtype, file["test/labels"].dtype} == {np.dtype(kind)}
        assert file["test/predicted"].compression == "gzip"
        assert file["test/predicted"].chunks is not None
        assert file["test/predicted"][:].tolist() == [[classes - 1, 0]]


def test_a_hundred_alike_initialisations_take_kilobytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 2, 10_000)
    one = np.where(random.random(10_000) < 0.8, true, 1 - true)
    predictions = Predictions(tmp_path / "predictions.h5", {"test": true}, 2)
    for number in range(100):
        predictions._found[number] = {"test": one.astype(np.uint8)}
    predictions.add(100, {"test": one})
    assert (tmp_path / "predictions.h5").stat().st_size < 1_010_000 / 30, "101 initialisations, 10,000 rows"


def test_the_same_answers_are_the_same_bytes(tmp_path: Path) -> None:
    added(tmp_path / "a.h5", 0, 1, 2)
    added(tmp_path / "b.h5", 2)
    added(tmp_path / "b.h5", 1, 0)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_there_is_no_pickle_in_it(tmp_path: Path) -> None:
    added(tmp_path / "predictions.h5", 0)
    with h5py.File(tmp_path / "predictions.h5") as file:
        kinds: list[str] = []
        file.visititems(lambda _, item: kinds.append(item.dtype.kind) if isinstance(item, h5py.Dataset) else None)
    assert set(kinds) == {"u"}


@pytest.mark.parametrize("content", [b"", b"not HDF5", None])
def test_a_file_that_is_not_whole_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "predictions.h5"
    added(path, 0)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(InputError, match=r"predictions\.h5: not whole .*; remove the folder and run stage 3 again"):
        read(path, "test")


def test_another_format_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "predictions.h5", "w") as file:
        file.attrs["format"] = "textdd-predictions/9"
    with pytest.raises(InputError, match="textdd-predictions/9"):
        read(tmp_path / "predictions.h5", "test")


# --- in step with results.csv --------------------------------------------------------------------------------------


def test_kept_are_those_that_are_in_both(tmp_path: Path) -> None:
    path = tmp_path / "predictions.h5"
    predictions = added(path, 0, 1, 2)
    predictions.keep({1, 5})
    assert there(path, "test").initialisations == (1,)
    assert Predictions(path, LABELS, 3).done == {1}
    before = path.stat().st_mtime_ns
    Predictions(path, LABELS, 3).keep({1})
    assert path.stat().st_mtime_ns == before, "nothing to drop, nothing written"
    predictions.keep(())
    assert not path.exists(), "HDF5 has no chunk of no rows"
    predictions.add(4, LABELS)
    assert there(path, "test").initialisations == (4,)
    results = Results(tmp_path / "results.csv", ("test",))
    for number in range(3):
        results.add(number, {"test": {"accuracy": 0.5}}, 1.0)
    results.keep({1, 7})
    assert Results(tmp_path / "results.csv", ("test",)).done == {1}


def rows(folder: Path) -> list[dict[str, str]]:
    return table(folder / "results.csv")


def prepared_store(path: Path, root: Path) -> Store:
    return carried_out(path, root, "distill")[1]


def evaluated(path: Path, store: Store) -> Path:
    outcome = run_stage(stage_cells(load_experiment(path), store, "evaluate"), "evaluate", store)
    assert not outcome.failed, outcome.failed
    return store.cell(load_experiment(path).cells[0]).folder


def check(folder: Path, path: Path, store: Store, initialisations: int) -> None:
    """Labels are the prepared split's, and every metric is that of the stored answers."""
    cell = load_experiment(path).cells[0]
    prepared = Prepared(store.cell(cell.source.source).folder)
    values = {(int(r["initialisation"]), r["split"], r["metric"]): float(r["value"]) for r in rows(folder)}
    for split in ("dev", "test"):
        found = there(folder / "predictions.h5", split)
        assert found.labels.tolist() == prepared.split(split).labels.tolist()
        assert found.initialisations == tuple(range(initialisations))
        for number, answers in zip(found.initialisations, found.predicted, strict=True):
            wanted = decisions(torch.tensor(answers).long(), torch.tensor(found.labels).long(), found.classes)
            assert {name: values[number, split, name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("method", ["ddal", "random", "majority"])
def test_what_is_stored_is_what_was_scored(experiment: Write, tmp_path: Path, method: str) -> None:
    protocol: dict[str, object] = {"name": method} if method != "random" else {"name": "finetune", "steps": 3}
    number = 1 if method == "majority" else 3
    grids = None if method == "ddal" else [{"distill.method": [{"name": method}]}]
    path = experiment(evaluate={"protocol": protocol, "initialisations": number}, grids=grids)
    store = prepared_store(path, tmp_path / "ck")
    check(evaluated(path, store), path, store, number)


def test_a_cell_that_was_begun_without_predictions_is_evaluated_anew(experiment: Write, tmp_path: Path) -> None:
    """An initialisation is in both files or in neither; its numbers are the same."""
    path = experiment(evaluate={"protocol": {"name": "ddal"}, "initialisations": 3})
    store = prepared_store(path, tmp_path / "ck")
    folder = evaluated(path, store)
    whole = [row | {"seconds": ""} for row in rows(folder)]
    (folder / "predictions.h5").unlink()
    (folder / "done.json").unlink()
    evaluated(path, store)
    assert [row | {"seconds": ""} for row in rows(folder)] == whole
    check(folder, path, store, 3)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGUSR2"])
def test_killed_between_the_two_files_it_ends_with_the_same(experiment: Write, tmp_path: Path, name: str) -> None:
    path = experiment(evaluate={"protocol": {"name": "ddal"}, "initialisations": 4, "runtime": {"threads": 1}})
    undisturbed = evaluated(path, prepared_store(path, tmp_path / "a"))
    store = prepared_store(path, tmp_path / "b")
    moments = [  # before the first draw's results, the second's predictions, its results, in the middle of the third's
        ("pipeline.evaluation.results:write_text", 2),
        ("pipeline.evaluation.predictions:replacing", 2),
        ("pipeline.evaluation.results:write_text", 3),
        ("pipeline.evaluation.predictions:put", 4),
    ]
    disturbances = [Disturbance(*moment, name) for moment in moments]
    ended, said = launch("evaluate", path, store.root, [*disturbances, None])
    assert ended[-1].status == 0, said
    if name == "SIGKILL":
        assert [end.status for end in ended] == [-9, -9, -9, -9, 0], said
    folder = store.cell(load_experiment(path).cells[0]).folder
    assert (folder / "predictions.h5").read_bytes() == (undisturbed / "predictions.h5").read_bytes()
    assert [r | {"seconds": ""} for r in rows(folder)] == [r | {"seconds": ""} for r in rows(undisturbed)]
    left = {file.name for file in folder.iterdir()} - {file.name for file in undisturbed.iterdir()}
    assert not left, "no half file stays behind"


# --- initialisations of several sets ---------------------------------------------------------------------------------


def test_other_sets_train_other_classifiers(experiment: Write, tmp_path: Path) -> None:
    """What varies between draws of real samples holds their initialisations too; of one set nothing else changed."""
    path = experiment(
        evaluate={"protocol": {"name": "finetune", "steps": 1, "lr": 1e-30}, "initialisations": 2},
        grids=[{"distill.method": [{"name": "random"}], "distill.seed": [0, 1, 2]}],
    )
    store = prepared_store(path, tmp_path / "ck")
    evaluated(path, store)
    losses = []
    for cell in load_experiment(path).cells:
        found = rows(store.cell(cell).folder)
        losses.append([row["value"] for row in found if row["metric"] == "loss" and row["split"] == "test"])
    for one, other in itertools.combinations([loss for of_set in losses for loss in of_set], 2):
        assert one != other, "nothing was learned: the loss is that of the initial classifier"
