"""Vectors learned end to end: they teach, resume bit-equal after a kill, grow in stages, are selected as was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.bilevel import check
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.errors import StageError
from pipeline.launch import run_stage, stage_cells
from pipeline.methods.gradient_check import WHOLE, canary_of, check_gradient
from pipeline.methods.vectors import method as vectors
from pipeline.methods.vectors import run as vector_run
from pipeline.store import Store
from tests.methods.killed import assert_same_log, distilled, killed_and_resumed, rows, same

Write = Callable[..., Path]
SMALL = {
    "name": "bptt",
    "student": {"name": "mlp", "width": 8},
    "steps": 6,
    "learning_rate": 0.05,
    "outer": {"steps": 4, "batch_size": 32},
    "validation": {"every": 2, "initialisations": 2},
}


@pytest.fixture
def on_vectors(experiment: Write, encoder_folder: Callable[..., Path]) -> Write:
    """An experiment whose method is ``SMALL`` with changes; ``outer`` and ``validation`` are merged."""

    def write(name: str = "tiny", save_seconds: float = 60.0, seed: int = 42, **changes: Any) -> Path:
        method = SMALL | changes
        for part in ("outer", "validation"):
            method[part] = SMALL[part] | changes.get(part, {})  # type: ignore[operator]
        return experiment(
            prepare={"vectors": "mean", "model": str(encoder_folder("bert", pretrained=True))},
            distill={"method": method, "seed": seed, "runtime": {"threads": 1, "save_seconds": save_seconds}},
            evaluate={"protocol": {"name": "vectors", "steps": 30}, "initialisations": 2},
            name=name,
        )

    return write


def test_one_sample_per_class_teaches_the_keywords(on_vectors: Write, tmp_path: Path) -> None:
    path = on_vectors(
        steps=20, window=8, outer={"steps": 40, "lr": 0.1}, validation={"every": 10, "initialisations": 4}
    )
    found, folder = distilled(path, tmp_path / "ck")
    log = rows(folder)
    assert found.about["selection"]["accuracy"] > 0.95
    assert sum(float(row["loss"]) for row in log[-8:]) < 0.6 * sum(float(row["loss"]) for row in log[:8])
    assert found.vectors is not None
    assert found.vectors.shape == (2, 32)
    assert found.label_ids.tolist() == [0, 1]
    assert found.recipe.name == "vectors"


EVERYTHING = {
    "shots": 3,
    "labels": "soft",
    "window": 3,
    "batch_shots": 1,
    "learn_learning_rate": True,
    "draws": 2,
    "student": {"name": "transformer", "tokens": 2, "width": 8, "layers": 1, "heads": 2, "feed_forward": 8},
    "augment": {"noise": 0.01, "mixup": 0.5},
    "boost": {"stages": [1, 3], "beta": 0.3},
    "outer": {"steps": 12, "hard_mining": {"share": 0.5, "every": 5}, "scheduler": "cosine"},
    "validation": {"every": 5, "examples": 20},
}


def test_killed_and_started_again_it_ends_bit_equal(on_vectors: Write, tmp_path: Path) -> None:
    path = on_vectors(save_seconds=0, **EVERYTHING)
    undisturbed, folder = distilled(path, tmp_path / "a")
    complete = rows(folder)
    assert len(complete) == 24
    resumed, target = killed_and_resumed(path, tmp_path / "b", folder.name, (4, 15))  # in the first stage, the second
    assert same(undisturbed, resumed)
    assert_same_log(target, complete)


@pytest.mark.parametrize("student", [{"name": "mlp", "width": 8}, EVERYTHING["student"]])
def test_a_window_of_the_whole_horizon_is_full_bptt(on_vectors: Write, tmp_path: Path, student: object) -> None:
    full, folder = distilled(on_vectors(student=student), tmp_path / "ck")
    windowed, other = distilled(on_vectors(student=student, window=6), tmp_path / "ck")
    assert folder != other
    assert same(full, windowed)
    assert [row["loss"] for row in rows(folder)] == [row["loss"] for row in rows(other)]
    shorter, _ = distilled(on_vectors(student=student, window=3, start="end"), tmp_path / "ck")
    assert not same(full, shorter)


@pytest.mark.parametrize("unit_norm", [None, "every_step"])
def test_frozen_samples_are_the_smaller_set_to_the_bit(
    on_vectors: Write, tmp_path: Path, unit_norm: str | None
) -> None:
    """β = 0: the first stage alone is a prefix of the chain, and so are the first two."""
    options = {"labels": "unrestricted", "unit_norm": unit_norm}
    alone, _ = distilled(on_vectors(shots=1, **options), tmp_path / "ck")
    two, _ = distilled(on_vectors(shots=2, boost={"stages": [1, 2], "beta": 0}, **options), tmp_path / "ck")
    three, _ = distilled(on_vectors(shots=5, boost={"stages": [1, 2, 5], "beta": 0}, **options), tmp_path / "ck")
    for part, shots, whole in ((alone, 1, two), (alone, 1, three), (two, 2, three)):
        prefix = whole.prefix(shots)
        assert prefix.vectors is not None
        assert part.vectors is not None
        assert torch.equal(prefix.vectors, part.vectors)
        assert torch.equal(prefix.labels, part.labels)
    assert three.label_ids.tolist() == [0, 1] * 5
    assert [stage["shots"] for stage in three.about["stages"]] == [1, 2, 5]
    assert three.about["stages"][-1] == {"shots": 5, **three.about["selection"]}
    assert [stage["step"] > 4 * number for number, stage in enumerate(three.about["stages"])] == [True] * 3


def test_old_samples_move_by_a_share_of_their_step(on_vectors: Write, tmp_path: Path) -> None:
    """With plain gradient steps and one step per stage: β times as far as without boosting's brake."""
    outer = {"steps": 1, "optimizer": "sgd", "scheduler": "constant", "clip": None, "lr": 10.0}
    moved = {}
    for beta in (0.0, 0.25, 1.0):
        options = {"boost": {"stages": [1, 2], "beta": beta}, "outer": outer, "validation": {"split": "none"}}
        found, _ = distilled(on_vectors(shots=2, **options), tmp_path / "ck")
        moved[beta] = found.vectors
    old = moved[1.0][:2] - moved[0.0][:2]
    assert old.norm() > 0.01
    torch.testing.assert_close(moved[0.25][:2] - moved[0.0][:2], 0.25 * old, rtol=1e-3, atol=1e-6)
    assert torch.equal(moved[0.25][2:], moved[1.0][2:])


def test_the_best_state_is_kept_and_the_last_without_validation(on_vectors: Write, tmp_path: Path) -> None:
    wild = {"lr": 20.0, "steps": 8, "clip": None}
    found, folder = distilled(on_vectors(outer=wild, validation={"every": 1}), tmp_path / "ck")
    losses = [float(row["validation_loss"]) for row in rows(folder)]
    assert found.about["selection"]["step"] == losses.index(min(losses)) + 1
    assert found.about["selection"]["split"] == "dev"
    last, folder = distilled(on_vectors(validation={"split": "none"}), tmp_path / "ck")
    assert last.about["selection"] == {"split": "none", "step": 4}
    assert all(row["validation_loss"] == "" for row in rows(folder))


def test_nan_stops_with_the_last_good_state(on_vectors: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, store = load_experiment(on_vectors()), Store(tmp_path / "ck")
    run_stage(stage_cells(config, store, "prepare"), "prepare", store)
    distill = config.cells[0].source
    prepared, true, calls = Prepared(store.cell(distill.source).folder), vector_run.hypergradient, []

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return true(*args, **kwargs) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(vector_run, "hypergradient", poisoned)
    with pytest.raises(StageError, match=r"step 3: outer loss nan.*state before it is saved.*a shorter window"):
        vectors.distill(distill, prepared, tmp_path)
    state = torch.load(tmp_path / "progress.pt", weights_only=True)
    assert state["step"] == 2
    lengths = [float(row["gradient_norm"]) for row in rows(tmp_path)]
    assert state["average"] == pytest.approx(0.9 * lengths[0] + 0.1 * min(lengths[1], 2 * lengths[0]), rel=1e-5)
    vectors.distill(distill, prepared, tmp_path)
    assert [int(row["step"]) for row in rows(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes_per_batch": 3}, "classes_per_batch: 3 of 2 classes; give at most 2"),
        ({"shots": 99}, "class 0 has 80 training rows, too few for shots: 99"),
        ({"validation": {"examples": 1}}, "validation on 1 dev rows for 2 classes"),
        ({"outer": {"sampling": "balanced", "batch_size": 9}}, "outer.batch_size: 9 is no multiple of 2; give 8 or 10"),
    ],
)
def test_what_the_task_cannot_do_is_refused(
    on_vectors: Write, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    config, store = load_experiment(on_vectors(**changes)), Store(tmp_path / "ck")
    run_stage(stage_cells(config, store, "prepare"), "prepare", store)
    (reason,) = run_stage(stage_cells(config, store, "distill"), "distill", store).failed.values()
    assert words in reason


@pytest.mark.parametrize("student", [{"name": "mlp", "width": 8}, EVERYTHING["student"]])
def test_the_gradient_check_looks_at_it(
    on_vectors: Write, tmp_path: Path, student: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window, an ensemble, all learned tensors; and what is off by a thousandth is found."""
    path = on_vectors(student=student, window=3, labels="soft", learn_learning_rate=True, draws=2)
    config, store = load_experiment(path), Store(tmp_path / "ck")
    run_stage(stage_cells(config, store, "prepare"), "prepare", store)
    distill = config.cells[0].source
    prepared = Prepared(store.cell(distill.source).folder)
    found = check_gradient(distill, prepared, WHOLE)
    assert found.holds, found.table()
    assert {row.tensor for row in found.agreements[torch.float64]} == {"vectors", "labels", "learning_rate"}
    assert canary_of(distill, prepared.folder).holds
    true = check.hypergradient

    def longer(*args: Any, **kwargs: Any) -> torch.Tensor:
        return true(*args, **kwargs | {"scale": 1.001 if args[0] != "unroll" else 1.0})

    monkeypatch.setattr(check, "hypergradient", longer)
    adjoint = distill.model_copy(update={"method": distill.method.model_copy(update={"estimator": "adjoint"})})
    assert not check_gradient(adjoint, prepared, WHOLE).holds
