"""``pipeline.launch.submit``, for notebooks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.errors import InputError
from pipeline.launch import submit
from pipeline.launch.submission import all_of

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_settings_and_only_are_those_of_the_command_line(experiment: Write, tmp_path: Path) -> None:
    path, settings, only = experiment(), ["distill.seed=1,2,3"], ["distill.seed=1,3"]
    jobs = submit(path, "debug", settings=settings, only=only, root=tmp_path / "root")
    assert len(jobs) == 1 + 2 + 2
    whole = load(path, settings)
    (submission,) = all_of(Path("logs"), whole.name)
    found = json.loads((submission.folder / "experiment.json").read_text())
    assert (found["only"], len(found["cells"])) == ([0, 2], 3)
    assert found["typed"] == {
        "config": str(path), "settings": settings, "only": only, "root": str(tmp_path / "root"), "cluster_file": None
    }  # fmt: skip


@pytest.mark.parametrize("name", ["settings", "only"])
def test_one_text_is_no_list(experiment: Write, tmp_path: Path, name: str) -> None:
    """It would be taken for a list of its letters."""
    with pytest.raises(InputError) as caught:
        submit(experiment(), "debug", root=tmp_path / "root", **{name: "distill.seed=1"})  # type: ignore[arg-type]
    assert str(caught.value) == f"{name}: a list is needed, not one text; write {name}=['distill.seed=1']"
