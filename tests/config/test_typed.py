"""What messages tell users to type, and that every command takes it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline.__main__ import app
from pipeline.config import load
from pipeline.config.typed import Typed
from pipeline.config.where import restricted

WHOLE = Typed(
    config="my grid.yaml", settings=("a.b=1,2", "seeds=3"), only=("c.d=x y",), root="/r", cluster_file="c.yaml"
)


def test_it_can_be_pasted() -> None:
    options = "--set a.b=1,2 --set seeds=3 --only 'c.d=x y' --root /r --cluster-file c.yaml"
    assert WHOLE.command("status") == f"python -m pipeline status 'my grid.yaml' {options}"
    assert Typed(config="c").command("run", "--cluster", "slurm") == "python -m pipeline run c --cluster slurm"
    assert WHOLE.stage("sbatch --x='a b' s") == "sbatch --x='a b' s " + (
        "'my grid.yaml' --set a.b=1,2 --set seeds=3 --only 'c.d=x y' --root /r"
    )


@pytest.mark.parametrize("name", ["run", "status", "retry", "cancel", "array", "check-grad"])
def test_every_command_has_the_options_that_it_is_given(name: str) -> None:
    group: Any = typer.main.get_command(app)
    words = shlex.split(WHOLE.command(name, *(["distill"] if name == "array" else [])))[4:]
    found = group.commands[name].make_context(name, words).params
    given = {key: found[key] for key in ("config", "set_", "only", "root", "cluster_file") if key in found}
    expected = {"config": "my grid.yaml", "set_": list(WHOLE.settings), "only": list(WHOLE.only), "root": "/r"}
    assert given == {key: value for key, value in (expected | {"cluster_file": "c.yaml"}).items() if key in given}


def test_an_experiment_knows_how_it_was_given(experiment: Callable[..., Path]) -> None:
    path = experiment()
    whole = load(str(path), (setting for setting in ["distill.seed=1,2"]))
    part = restricted(whole, (only for only in ["distill.seed=2"]))
    assert part.typed == Typed(config=str(path), settings=("distill.seed=1,2",), only=("distill.seed=2",))
    assert (len(part.cells), part.only, whole.typed.only) == (2, (1,), ())
