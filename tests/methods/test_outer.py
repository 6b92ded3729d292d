"""One outer step: which draws and real batches it sees, which estimator computes it, what the set remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.bilevel import Adam, Momentum, Snapshots
from pipeline.config import DDAL, Distill, Runtime
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import load
from pipeline.errors import InputError
from pipeline.launch import run_stage, stage_cells
from pipeline.methods import ddal, outer
from pipeline.methods.outer import Estimation
from pipeline.store import Store
from tests.conftest import carried_out

Write = Callable[..., Path]


@pytest.fixture
def prepared(experiment: Write, tmp_path: Path) -> Callable[..., tuple[Distill, Prepared]]:
    """Method options -> stage 2's config and stage 1's output."""

    def make(**options: object) -> tuple[Distill, Prepared]:
        config, store = load_experiment(experiment(method=options)), Store(tmp_path / "ck")
        run_stage(stage_cells(config, store, "prepare"), "prepare", store)
        cell: Distill = config.cells[0].source
        return cell, Prepared(store.cell(cell.source).folder)

    return make


Make = Callable[..., tuple[Distill, Prepared]]


class Calls:
    """What every call of ``hypergradient`` was given, and the loss it returned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[dict[str, Any]] = []
        self._true = outer.hypergradient
        monkeypatch.setattr(outer, "hypergradient", self)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = self._true(*args, **kwargs)
        names = ("estimator", "student", "parameters", "batches", "real")
        self.made.append(dict(zip(names, args, strict=True)) | kwargs | {"loss": loss.item()})
        return loss

    def heads(self) -> list[Tensor]:
        return [made["parameters"]["classifier.weight"] for made in self.made]


def logged(folder: Path) -> list[float]:
    header, *lines = (folder / "log.csv").read_text().splitlines()
    return [float(line.split(",")[header.split(",").index("loss")]) for line in lines]


def run(made: tuple[Distill, Prepared], folder: Path) -> Path:
    folder.mkdir()
    ddal.distill(*made, folder)
    return folder


SHORT = {"outer": {"steps": 2, "batch_size": 8}, "validation": {"split": "none"}}


def test_several_classifiers_are_drawn_and_averaged(
    prepared: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    run(prepared(**SHORT), tmp_path / "one")
    one = calls.heads()
    calls.made.clear()
    folder = run(prepared(**SHORT, draws=3), tmp_path / "three")
    heads = calls.heads()
    assert len(heads) == 6
    assert all(not torch.equal(a, b) for n, a in enumerate(heads) for b in heads[:n])
    assert torch.equal(heads[0], one[0]), "the first of several draws is the only one of one"
    assert torch.equal(heads[3], one[1])
    assert [float(made["scale"]) for made in calls.made] == pytest.approx([1 / 3] * 6)
    losses = [made["loss"] for made in calls.made]
    assert logged(folder) == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3])


def test_several_real_batches_make_one_loss(prepared: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    run(prepared(**SHORT | {"outer": {"steps": 4, "batch_size": 8}}), tmp_path / "one")
    seen = [made["real"] for made in calls.made]
    calls.made.clear()
    run(prepared(**SHORT | {"outer": {"steps": 2, "batch_size": 8, "real_batches": 2}}), tmp_path / "two")
    for step, made in enumerate(calls.made):
        for ours, (alone,) in zip(made["real"], seen[2 * step : 2 * step + 2], strict=True):
            assert torch.equal(ours["input_ids"], alone["input_ids"])


def test_an_epoch_counts_rows_not_steps(prepared: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """160 training rows: 20 batches of 8, 10 steps of two batches, 3 steps of six."""
    for count, steps in ((1, 20), (2, 10), (6, 3)):
        options = {"outer": {"epochs": 1, "batch_size": 8, "real_batches": count}, "validation": {"split": "none"}}
        assert len(logged(run(prepared(**options), tmp_path / str(count)))) == steps


def test_dropout_differs_between_draws(prepared: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    run(prepared(**SHORT, draws=2, dropout=True), tmp_path / "a")
    masks = []
    for made in calls.made:
        with made["dropping"](0):
            masks.append(torch.rand(4).tolist())
    assert len({tuple(mask) for mask in masks}) == 4


# --- the estimator -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        ({}, "fused", "hypergradient by fused: hand-derived passes"),
        ({"dropout": True}, "unroll", "hypergradient by unroll: dropout is on; at most 5 inner steps"),
        ({"precision": "bf16", "steps": 6}, "adjoint", "hypergradient by adjoint: the inner loop's precision is bf16"),
        ({"dropout": True, "steps": 6, "window": 2}, "unroll", "hypergradient by unroll: dropout is on; at most 5"),
        ({"estimator": "adjoint"}, "adjoint", "hypergradient by adjoint: as configured"),
    ],
)
def test_the_log_says_which_estimator_and_why(
    prepared: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, object],
    name: str,
    said: str,
) -> None:
    calls = Calls(monkeypatch)
    run(prepared(**SHORT, **options), tmp_path / "a")
    assert said in capsys.readouterr().err
    assert {made["estimator"] for made in calls.made} == {name}


def test_what_cannot_be_is_refused(prepared: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'fused' cannot be used \(dropout is on\); use auto, unroll or adjoint"):
        run(prepared(**SHORT, dropout=True, estimator="fused"), tmp_path / "a")
    with pytest.raises(InputError, match="precision: 'tf32' needs a CUDA device, not cpu; use fp32"):
        run(prepared(**SHORT, precision="tf32"), tmp_path / "b")


def test_the_estimator_moves_no_address_and_no_number(prepared: Make, tmp_path: Path) -> None:
    options = SHORT | {"labels": "soft", "attention_labels": "cls", "steps": 2}
    store, addresses, sets = Store(tmp_path / "ck"), set(), []
    for estimator in ("unroll", "adjoint", "fused", "auto"):
        config, facts = prepared(**options, estimator=estimator)
        addresses.add(store.cell(config).folder)
        (tmp_path / estimator).mkdir()
        sets.append(ddal.distill(config, facts, tmp_path / estimator))
    assert len(addresses) == 1
    for other in sets[1:]:
        for name in ("inputs_embeds", "labels", "attention_labels", "learning_rates"):
            # AdamW turns the sign of tiny gradients into whole steps, so single entries may differ by rounding's whim
            error = (getattr(other, name) - getattr(sets[0], name)).norm() / getattr(sets[0], name).norm()
            assert error < 1e-3, name


def test_a_resumed_run_says_that_its_estimator_changed(
    prepared: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, facts = prepared(**SHORT, estimator="unroll")
    true, calls = outer.hypergradient, []

    def stopped(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return true(*args, **kwargs) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(outer, "hypergradient", stopped)
    with pytest.raises(Exception, match="step 2"):
        ddal.distill(config, facts, tmp_path)
    assert isinstance(config.method, DDAL)
    other = config.method.model_copy(update={"estimator": "adjoint"})
    ddal.distill(config.model_copy(update={"method": other}), facts, tmp_path)
    assert "resumed with estimator adjoint instead of unroll: not bit-equal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ({}, Snapshots()),
        ({"snapshots": "disk"}, Snapshots("disk")),
        ({"memory_mb": 1}, Snapshots("auto", 2**20, 2**20 - 2 * 1000)),
        ({"memory_mb": 1, "snapshots": "recompute"}, Snapshots("recompute", 2**20, 2**20 - 2 * 1000)),
    ],
)
def test_memory_goes_to_parameters_first(runtime: dict[str, Any], expected: Snapshots) -> None:
    class Small:
        def initial(self, seed: int, index: int) -> dict[str, Tensor]:
            return {"a": torch.zeros(100), "b": torch.zeros(150)}

    method = DDAL(name="ddal", steps=9, window=3)
    assert Estimation.of(method, Runtime(**runtime), Small()).snapshots == expected  # type: ignore[arg-type]
    tight = Estimation.of(DDAL(name="ddal", steps=2000), Runtime(memory_mb=1), Small())  # type: ignore[arg-type]
    assert tight.snapshots.keep == 0


# --- the inner optimiser -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("adam", Adam()),
        ({"name": "adam", "betas": [0.5, 0.9], "eps": 1e-3}, Adam((0.5, 0.9), 1e-3)),
        ({"name": "momentum", "momentum": 0.5, "nesterov": True}, Momentum(0.5, nesterov=True)),
    ],
)
def test_the_set_remembers_its_optimiser(
    experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: object, rule: object
) -> None:
    calls = Calls(monkeypatch)
    path = experiment(method=SHORT | {"inner_optimizer": given, "steps": 2, "window": 1})
    config, store = carried_out(path, tmp_path / "ck", "distill")
    found = load(store.cell(config.cells[0].source).folder / "distilled.h5")
    assert found.recipe.optimiser == rule
    assert {(made["optimiser"], made["window"]) for made in calls.made} == {(rule, 1)}


def test_validation_trains_as_the_set_says(prepared: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true, seen = ddal.descend, []

    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["optimiser"])
        return true(*args, **kwargs)

    monkeypatch.setattr(ddal, "descend", noted)
    run(prepared(inner_optimizer="momentum", outer={"steps": 1, "batch_size": 8}), tmp_path / "a")
    assert set(seen) == {Momentum()}


def test_precision_of_real_text() -> None:
    given = [{}, {"precision": "bf16"}, {"precision": "tf32"}, {"outer": {"precision": "bf16"}}]
    given.append({"precision": "bf16", "outer": {"precision": "fp32"}})
    found = [DDAL(name="ddal", **options).outer_precision for options in given]  # type: ignore[arg-type]
    assert found == ["fp32", "bf16", "fp32", "bf16", "fp32"]
