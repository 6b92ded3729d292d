"""The outer loop: it learns, resumes bit-equal after a kill, stops at NaN with its state, selects as it was told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.config import DDAL, Distill
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import save
from pipeline.errors import InputError, StageError
from pipeline.launch import run_stage, stage_cells
from pipeline.methods import ddal, outer
from pipeline.store import Store
from tests.methods.killed import assert_same_log, distilled, killed_and_resumed, rows, same

Write = Callable[..., Path]


def test_it_learns_the_keywords(experiment: Write, tmp_path: Path, encoder_folder: Callable[..., Path]) -> None:
    """From chance to near the Bayes accuracy of 1, with one sample per class and one step."""
    path = experiment(
        prepare={"model": str(encoder_folder("bert", pretrained=True))},
        method={
            "labels": "unrestricted",
            "attention_labels": "cls",
            "initialise": "real",
            "learning_rate": 0.02,
            "outer": {"steps": 60, "batch_size": 16, "lr": 0.05},
            "validation": {"every": 20, "initialisations": 4},
        },
    )
    found, folder = distilled(path, tmp_path / "ck")
    log = rows(folder)
    assert found.about["selection"]["accuracy"] > 0.95
    assert sum(float(row["loss"]) for row in log[-10:]) < 0.5 * sum(float(row["loss"]) for row in log[:10])


@pytest.mark.parametrize(
    "options",
    [
        {"labels": "unrestricted", "attention_labels": "cls", "steps": 2},
        {
            "labels": "soft",
            "shots": 2,
            "steps": 2,
            "order": "random",
            "dropout": True,
            "outer": {"optimizer": "sgd", "steps": 30, "batch_size": 8},
        },
    ],
)
def test_killed_and_started_again_it_ends_bit_equal(
    experiment: Write, tmp_path: Path, options: dict[str, object]
) -> None:
    settings = {"outer": {"steps": 30, "batch_size": 8}, "validation": {"every": 7, "initialisations": 2}} | options
    path = experiment(method=settings, distill={"runtime": {"save_seconds": 0, "threads": 1}})
    undisturbed, folder = distilled(path, tmp_path / "a")
    complete = rows(folder)
    resumed, target = killed_and_resumed(path, tmp_path / "b", folder.name, (5, 19))
    assert same(undisturbed, resumed)
    assert_same_log(target, complete)


def test_a_log_that_is_ahead_of_the_state_is_cut_back(experiment: Write, tmp_path: Path) -> None:
    from pipeline.methods.checkpoint import Checkpoint

    checkpoint = Checkpoint(tmp_path, 0)
    assert checkpoint.load() is None
    checkpoint.log(step=1, loss=0.5, seconds=0.1)
    checkpoint.save({"step": 1})
    with open(tmp_path / "log.csv", "a") as file:
        file.write("2,0,0.4,,,,,,0.1\n3,0,0.")  # written, then killed in mid-line before the state followed
    assert Checkpoint(tmp_path, 0).load() == {"step": 1}
    assert [row["step"] for row in rows(tmp_path)] == ["1"]


def test_nan_stops_with_the_last_good_state(experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = experiment(method={"outer": {"steps": 6, "batch_size": 8}})
    config, store = load_experiment(path), Store(tmp_path / "ck")
    run_stage(stage_cells(config, store, "prepare"), "prepare", store)
    distill: Distill = config.cells[0].source
    prepared = Prepared(store.cell(distill.source).folder)
    true = outer.hypergradient
    calls = []

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        return true(*args, **kwargs) * (float("nan") if len(calls) == 4 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(outer, "hypergradient", poisoned)
    with pytest.raises(StageError, match=r"step 4: outer loss nan.*state before it is saved.*smaller learning_rate"):
        ddal.distill(distill, prepared, tmp_path)
    state = torch.load(tmp_path / "progress.pt", weights_only=True)
    assert state["step"] == 3
    assert all(tensor.isfinite().all() for tensor in state["tensors"].values())
    assert not (tmp_path / "distilled.h5").exists()
    ddal.distill(distill, prepared, tmp_path)  # nothing poisons it now: it goes on from step 3
    assert [int(row["step"]) for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_validations_without_a_finite_loss_select_nothing(
    experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the advice that a loss which is not finite gives, too."""
    path = experiment(method={"outer": {"steps": 2, "batch_size": 8}, "validation": {"every": 1, "initialisations": 1}})
    config, store = load_experiment(path), Store(tmp_path / "ck")
    run_stage(stage_cells(config, store, "prepare"), "prepare", store)
    distill: Distill = config.cells[0].source
    monkeypatch.setattr(ddal, "measured", lambda *arguments: float("nan"))
    with pytest.raises(StageError, match=f"nothing to select; try {ddal.ADVICE}"):
        ddal.distill(distill, Prepared(store.cell(distill.source).folder), tmp_path)


def test_selection_reads_the_split_it_says(experiment: Write, tmp_path: Path) -> None:
    dev, _ = distilled(experiment(), tmp_path / "ck")
    assert dev.about["selection"]["split"] == "dev"
    published, _ = distilled(
        experiment(method={"validation": {"split": "test", "every": 2, "initialisations": 2}}), tmp_path / "ck"
    )
    assert published.about["selection"]["split"] == "test"
    last, folder = distilled(experiment(method={"validation": {"split": "none"}}), tmp_path / "ck")
    assert last.about["selection"] == {"split": "none", "step": 4}
    assert all(row["validation_loss"] == "" for row in rows(folder))


def test_the_best_state_is_kept_not_the_last(experiment: Write, tmp_path: Path) -> None:
    """With steps far too large the loss explodes after the first validation; the set kept is the early one."""
    options = {"outer": {"steps": 12, "batch_size": 8, "lr": 5.0, "max_grad_norm": None, "warmup_ratio": 0.0}}
    found, folder = distilled(
        experiment(method={"validation": {"every": 1, "initialisations": 2}, "initialise": "real"} | options),
        tmp_path / "ck",
    )
    losses = [float(row["validation_loss"]) for row in rows(folder)]
    assert found.about["selection"]["step"] == losses.index(min(losses)) + 1
    assert found.about["selection"]["loss"] == min(losses)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_stays_near_float32(experiment: Write, tmp_path: Path, precision: str) -> None:
    full, _ = distilled(experiment(), tmp_path / "ck")
    reduced, _ = distilled(experiment(method={"precision": precision}), tmp_path / "ck")
    assert full.inputs_embeds is not None
    assert reduced.inputs_embeds is not None
    moved = reduced.inputs_embeds - full.inputs_embeds
    assert 0 < moved.norm() < 0.05 * full.inputs_embeds.norm()


@pytest.mark.parametrize("family", ["roberta", "electra", "albert", "mpnet", "distilbert"])
def test_every_family_is_a_student(
    experiment: Write, tmp_path: Path, encoder_folder: Callable[[str], Path], family: str
) -> None:
    for attention in ("cls", "all"):
        options = {"labels": "unrestricted", "attention_labels": attention, "outer": {"steps": 2, "batch_size": 8}}
        found, _ = distilled(
            experiment(prepare={"model": str(encoder_folder(family))}, method=options), tmp_path / "ck"
        )
        assert found.inputs_embeds is not None
        assert found.inputs_embeds.shape == (2, 8, 16 if family in ("electra", "albert") else 32)
        assert found.attention_labels is not None
        assert found.attention_labels.shape == (2, 2, 4, 1 if attention == "cls" else 8, 8)


@pytest.mark.parametrize("family", ["gpt2", "xlnet"])
def test_students_that_do_not_read_the_first_token_are_refused(
    experiment: Write, tmp_path: Path, encoder_folder: Callable[[str], Path], family: str
) -> None:
    config, store = load_experiment(experiment(prepare={"model": str(encoder_folder(family))})), Store(tmp_path / "ck")
    assert not run_stage(stage_cells(config, store, "prepare"), "prepare", store).failed
    failed = run_stage(stage_cells(config, store, "distill"), "distill", store).failed
    (reason,) = failed.values()
    assert "does not classify by its first token" in reason
    assert "give an encoder such as BERT" in reason


def test_a_warm_start_begins_where_the_other_set_ended(experiment: Write, tmp_path: Path) -> None:
    options = {"labels": "unrestricted", "attention_labels": "cls"}
    first, folder = distilled(experiment(method=options), tmp_path / "ck")
    still = {"outer": {"steps": 1, "batch_size": 8, "lr": 1e-12}, "validation": {"split": "none"}}
    warm = options | still | {"warm_start": str(folder / "distilled.h5")}
    again, _ = distilled(experiment(method=warm, name="warm"), tmp_path / "ck")
    for name in ("inputs_embeds", "labels", "attention_labels", "learning_rates"):
        torch.testing.assert_close(getattr(again, name), getattr(first, name), rtol=1e-5, atol=1e-6)


def test_a_warm_start_of_another_shape_is_refused(experiment: Write, tmp_path: Path) -> None:
    _, folder = distilled(experiment(), tmp_path / "ck")
    path = experiment(method={"sequence_length": 9, "warm_start": str(folder / "distilled.h5")}, name="warm")
    config, store = load_experiment(path), Store(tmp_path / "ck")
    (reason,) = run_stage(stage_cells(config, store, "distill"), "distill", store).failed.values()
    assert "its inputs_embeds are [2, 8, 32], this config's [2, 9, 32]" in reason


def test_sequences_longer_than_the_positions_are_refused() -> None:
    facts = {
        "positions": 38,
        "model": {"name": "tiny"},
        "reads_first_token": True,
        "sizes": {"dev": 40, "test": 40},
        "classes": ["a", "b"],
    }
    ddal.check(DDAL(name="ddal", sequence_length=38), facts)
    with pytest.raises(
        InputError, match="sequence_length: 39 is more than the 38 usable positions of tiny; give at most 38"
    ):
        ddal.check(DDAL(name="ddal", sequence_length=39), facts)
    with pytest.raises(InputError, match="validation on 1 dev rows for 2 classes"):
        ddal.check(DDAL(name="ddal", sequence_length=8, validation={"examples": 1}), facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"labels": "unrestricted"}, {"labels": "soft"}, "labels are not all positive"),
        ({}, {"attention_labels": "cls"}, "its attention_labels are absent"),
        ({"validation": {"split": "test", "every": 2, "initialisations": 2}}, {}, "selected on the test split"),
    ],
)
def test_warm_starts_that_would_mislead_are_refused(
    experiment: Write, tmp_path: Path, first: dict[str, object], second: dict[str, object], words: str
) -> None:
    _, folder = distilled(experiment(method=first), tmp_path / "ck")
    path = experiment(method=second | {"warm_start": str(folder / "distilled.h5")}, name="warm")
    config, store = load_experiment(path), Store(tmp_path / "ck")
    (reason,) = run_stage(stage_cells(config, store, "distill"), "distill", store).failed.values()
    assert words in reason


def test_a_warm_start_that_nobody_knows_the_selection_of_is_refused(experiment: Write, tmp_path: Path) -> None:
    """Published by others; also as an earlier version wrote it."""
    found, _ = distilled(experiment(), tmp_path / "ck")
    for number, about in enumerate(({"selection": {"split": "unknown"}}, {"imported": {"format": "ddal"}})):
        save(replace(found, about=found.about | about), tmp_path / f"published{number}.h5")
        path = experiment(method={"warm_start": str(tmp_path / f"published{number}.h5")}, name=f"warm{number}")
        config, store = load_experiment(path), Store(tmp_path / "ck")
        (reason,) = run_stage(stage_cells(config, store, "distill"), "distill", store).failed.values()
        assert "published by others, and maybe selected on the test split" in reason


def test_a_warm_start_of_another_encoder_is_refused(
    experiment: Write, tmp_path: Path, encoder_folder: Callable[[str], Path]
) -> None:
    _, folder = distilled(experiment(), tmp_path / "ck")
    warm = {"warm_start": str(folder / "distilled.h5")}
    path = experiment(prepare={"model": str(encoder_folder("roberta"))}, method=warm, name="warm")
    config, store = load_experiment(path), Store(tmp_path / "ck")
    for stage in ("prepare", "distill"):
        failed = run_stage(stage_cells(config, store, stage), stage, store).failed
    assert "another embedding matrix" in next(iter(failed.values()))


@pytest.mark.parametrize(("good", "by"), [(20, "loss"), (26, "accuracy"), (27, "loss"), (20, "balanced_accuracy")])
def test_a_set_that_teaches_nothing_is_said_to(
    good: int,
    by: str,
    experiment: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of 40 rows of dev, 20 of each class, 26 right answers are within two standard errors of a half, 27 are not."""
    path = experiment(method={"outer": {"steps": 2, "batch_size": 8}, "validation": {"by": by}})
    config, store = load_experiment(path), Store(tmp_path / "ck")
    run_stage(stage_cells(config, store, "prepare"), "prepare", store)
    prepared = Prepared(store.cell(config.cells[0].source.source).folder)
    assert prepared.manifest["class_counts"]["dev"] == [20, 20]
    right = torch.nn.functional.one_hot(prepared.split("dev").labels, 2).float()
    answers = torch.cat([right[:good], 1 - right[good:]])
    monkeypatch.setattr(ddal, "score", lambda student, trained, batches: answers)
    ddal.distill(config.cells[0].source, prepared, tmp_path)
    note = f"note: students of the set are right on {good / 40:.1%} of dev, whose largest class has 50.0%"
    err = capsys.readouterr().err
    said = good < 27 and by != "balanced_accuracy"
    assert (note in err, "learn next to nothing" in err) == (said, said)


def test_nothing_is_selected_where_no_validation_is_finite(
    experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = experiment(method={"outer": {"steps": 2, "batch_size": 8}})
    config, store = load_experiment(path), Store(tmp_path / "ck")
    run_stage(stage_cells(config, store, "prepare"), "prepare", store)
    monkeypatch.setattr(ddal, "score", lambda student, trained, batches: torch.full((40, 2), float("nan")))
    prepared = Prepared(store.cell(config.cells[0].source.source).folder)
    with pytest.raises(StageError, match="no validation had a finite loss"):
        ddal.distill(config.cells[0].source, prepared, tmp_path)
