"""The gradient check before a grid: a wrong hypergradient distils nothing, a right one costs a line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from pipeline import __main__
from pipeline.bilevel import adjoint, check
from pipeline.config import DDAL
from tests.bilevel import problem

Write = Callable[..., Path]
Run = Callable[..., tuple[int, str]]
RIGHT = re.compile(
    r"^gradient check: (\w+) agrees (?:with unroll to \de-\d\d and )?with finite differences to \de-\d\d "
    r"\(float64, \d s\)$",
    re.MULTILINE,
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """``python -m pipeline run ARGUMENTS`` in this process: status and standard error."""

    def run(*arguments: object) -> tuple[int, str]:
        places = ["--root", tmp_path / "ck", "--out", tmp_path / "results"]
        monkeypatch.setattr(sys, "argv", ["pipeline", "run", *map(str, [*arguments, *places])])
        with pytest.raises(SystemExit) as end:
            __main__.main()
        return int(end.value.code or 0), capsys.readouterr().err

    return run


def test_once_per_encoder_with_something_to_distil(
    experiment: Write, run: Run, encoder_folder: Callable[[str], Path]
) -> None:
    models = [str(encoder_folder(family)) for family in ("bert", "albert")]
    methods = [{"labels": "hard", "sequence_length": 41}, {"labels": "hard"}, {"labels": "soft"}]
    grids = [{"prepare.model": models, "distill.method": methods}]
    path = experiment(method={"outer": {"steps": 1, "batch_size": 8}}, grids=grids)
    status, said = run(path)
    assert status == 1  # of the samples that are too long, which the check leaves to stage 2
    assert sorted(RIGHT.findall(said)) == ["fused", "unroll"]
    assert RIGHT.findall(run(experiment(method={"outer": {"steps": 1, "batch_size": 8}}))[1]) == []


def test_a_method_that_no_check_is_written_for_is_not_held_up(
    experiment: Write, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DDAL, "checked_as", None)
    status, said = run(experiment(method={"outer": {"steps": 1, "batch_size": 8}}))
    assert (status, RIGHT.findall(said)) == (0, [])
    assert "gradient check: none is written for method 'ddal'" in said


def test_a_wrong_hypergradient_distils_nothing(
    experiment: Write, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = experiment(method={"estimator": "adjoint", "attention_labels": "cls", "steps": 3})
    true = adjoint._Sums.add

    def longer(self: Any, end: Tensor | None, gradient: Tensor | None, factor: Tensor | None = None) -> None:
        true(self, end, None if gradient is None else 1.001 * gradient, factor)

    monkeypatch.setattr(adjoint._Sums, "add", longer)
    status, said = run(path)
    assert status == 2
    assert "gradient check: adjoint does NOT agree with unroll to 1e-03" in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "nothing was distilled" in sentence
    assert "--no-check goes on regardless" in sentence
    assert not (tmp_path / "ck" / "distill").exists()
    status, said = run(path, "--no-check")
    assert status == 0
    assert "gradient check" not in said
    assert "distill: 1 done now" in said


@pytest.mark.parametrize("seed", range(3, 8))
def test_a_scalar_has_a_steep_direction_whatever_its_sign(encoder_folder: Callable[..., Path], seed: int) -> None:
    """A random direction of a single step size is its gradient's, or the opposite of it, which would cancel."""
    student, theta = problem.student(encoder_folder)
    leaves = problem.leaves(0, steps=1)
    rows = check.agreements(
        "adjoint", student, theta, leaves, problem.batches, [problem.real_batch()], step=1e-5, steep=True, seed=seed
    )
    assert len(rows) == 6
    assert all(row.relative_error < 1e-6 for row in rows)
