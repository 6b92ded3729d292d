"""The gradient check: it passes what is right and, above all, does not pass what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.bilevel import InnerBatch, check
from pipeline.methods import gradient_check
from tests.test_pipeline import run

Write = Callable[..., Path]


@pytest.mark.parametrize("estimator", ["unroll", "adjoint"])
def test_the_command_agrees(experiment: Write, tmp_path: Path, estimator: str) -> None:
    path = experiment(
        method={"labels": "soft", "attention_labels": "all", "steps": 3, "estimator": estimator, "dropout": True}
    )
    done = run("pipeline", "check-grad", path, "--root", tmp_path / "ck")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "float64 agrees" in done.stdout
    for tensor in ("inputs_embeds", "labels", "attention_labels", "learning_rates"):
        assert done.stdout.count(f"\n{tensor} ") == 4  # two references in two precisions


def test_a_wrong_estimator_is_caught(experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.config import load
    from pipeline.data.prepared import Prepared
    from pipeline.launch import run_stage, stage_cells
    from pipeline.store import Store

    config, store = load(experiment(method={"estimator": "adjoint"})), Store(tmp_path / "ck")
    run_stage(stage_cells(config, store, "prepare"), "prepare", store)
    cell = config.cells[0].source
    prepared = Prepared(store.cell(cell.source).folder)
    assert gradient_check.holds(gradient_check.check_gradient(cell, prepared))
    true = check.descend

    def other_inner_loop(forward: object, parameters: object, batches: list[InnerBatch], **kwargs: object) -> object:
        """Steps 0.1 % too long: what the differences see is no longer what the estimator differentiates."""
        longer = [replace(batch, learning_rate=1.001 * batch.learning_rate) for batch in batches]
        return true(forward, parameters, longer, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(check, "descend", other_inner_loop)
    assert not gradient_check.holds(gradient_check.check_gradient(cell, prepared))


def test_no_ddal_cell(experiment: Write, tmp_path: Path) -> None:
    path = experiment(
        evaluate={"protocol": {"name": "finetune"}, "initialisations": 1},
        grids=[{"distill.method": [{"name": "random"}]}],
    )
    done = run("pipeline", "check-grad", path, "--root", tmp_path / "ck")
    assert done.returncode == 2
    assert "no ddal cell" in done.stderr
