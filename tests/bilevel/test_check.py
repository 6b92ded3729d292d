"""The gradient check: it passes what is right and, above all, does not pass what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.bilevel import InnerBatch, check
from pipeline.config import load
from pipeline.errors import InputError
from pipeline.launch import learning_cell
from pipeline.methods import gradient_check
from tests.test_pipeline import run

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 3, "dropout": True}, "estimator unroll (dropout is on; at most 5 inner steps)"),
        ({"steps": 2, "estimator": "adjoint", "draws": 2}, "estimator adjoint (as configured)"),
        ({"steps": 2, "outer": {"real_batches": 2, "precision": "bf16"}}, "estimator fused (hand-derived passes"),
        ({"steps": 3, "window": 2, "inner_optimizer": "adam", "estimator": "adjoint"}, "estimator adjoint"),
    ],
)
def test_the_command_agrees(experiment: Write, tmp_path: Path, options: dict[str, object], said: str) -> None:
    """It says which estimator a run would take, and checks that one."""
    path = experiment(method={"labels": "soft", "attention_labels": "all"} | options)
    done = run("pipeline", "check-grad", path, "--root", tmp_path / "ck")
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
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
    assert gradient_check.check_gradient(cell, prepared).holds
    true = check.descend

    def other_inner_loop(forward: object, parameters: object, batches: list[InnerBatch], **kwargs: object) -> object:
        """Steps 0.1 % too long: what the differences see is no longer what the estimator differentiates."""
        longer = [replace(batch, learning_rate=1.001 * batch.learning_rate) for batch in batches]
        return true(forward, parameters, longer, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(check, "descend", other_inner_loop)
    assert not gradient_check.check_gradient(cell, prepared).holds


def test_no_ddal_cell(experiment: Write, tmp_path: Path) -> None:
    path = experiment(
        evaluate={"protocol": {"name": "finetune"}, "initialisations": 1},
        grids=[{"distill.method": [{"name": "random"}]}],
    )
    done = run("pipeline", "check-grad", path, "--root", tmp_path / "ck")
    assert done.returncode == 2
    assert "tiny: no cell of ddal, bptt or text, so no hypergradient to check; give an experiment" in done.stderr
    assert "--index" not in done.stderr


def test_another_index(experiment: Write) -> None:
    path = experiment(
        evaluate={"protocol": {"name": "finetune"}},
        grids=[{"distill.method": [{"name": "random"}]}, {"distill.method.steps": [1, 2]}],
    )
    plan = load(path)
    assert [learning_cell(plan, index) for index in (None, 1, 2)] == [plan.cells[1], plan.cells[1], plan.cells[2]]
    with pytest.raises(InputError, match="--index 0: no cell of ddal, bptt or text; such cells of tiny: 1, 2"):
        learning_cell(plan, 0)


def test_what_cannot_be_prepared_is_not_checked(experiment: Write, tmp_path: Path) -> None:
    """The reason is said once, and nothing of what follows."""
    done = run("pipeline", "check-grad", experiment(prepare={"dev": 500}), "--root", tmp_path / "ck")
    assert done.returncode == 2
    assert "dev: 500" in done.stderr.splitlines()[-1]
    assert "not prepared" not in done.stderr
