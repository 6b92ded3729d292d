"""``pipeline.launch.submit``, for notebooks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import Cluster, load
from pipeline.errors import InputError, StageError
from pipeline.launch import submit, submitter
from pipeline.launch.local import Ended
from pipeline.launch.submission import all_of
from pipeline.launch.submitter import written
from pipeline.store import Store

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


def test_cells_that_failed_are_no_success(experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The background process of ``local``: whoever waits for its result learns of it, after the tables are made."""
    store, made = Store(tmp_path / "root"), list[str]()
    submission = written(load(experiment()), store, Cluster(), tmp_path / "out")
    assert submission is not None
    ended = Ended(well={("prepare", 0)}, badly={("distill-0", 0)})
    monkeypatch.setattr(submitter, "supervise", lambda *_: ended)
    monkeypatch.setattr(submitter, "aggregate", made.append)
    with pytest.raises(StageError, match=r"1 jobs failed; python -m pipeline status .*tiny\.yaml says why and where"):
        submitter.run_locally(str(submission.folder), 2)
    assert made == [str(submission.folder)]
    ended.badly.clear()
    submitter.run_locally(str(submission.folder), 2)


def test_where_every_cell_failed_the_result_says_so(experiment: Write, tmp_path: Path) -> None:
    submission = written(load(experiment(prepare={"max_length": 4000})), Store(tmp_path / "root"), Cluster(), tmp_path)
    assert submission is not None
    with pytest.raises(InputError, match=f"tiny: no cell has results yet, so that {tmp_path} is left as it is"):
        submitter.run_locally(str(submission.folder), 2)


def test_what_the_tables_could_not_say_is_refused_before_anything_is_submitted(
    experiment: Write, tmp_path: Path
) -> None:
    path = experiment(report={"compare": [["HL", "SLL"]]})
    with pytest.raises(InputError, match=r"report\.compare.*SLL"):
        submit(path, "debug", root=tmp_path / "root")
    assert not (tmp_path / "root").exists()
    assert not Path("logs").exists()


@pytest.mark.parametrize("name", ["settings", "only"])
def test_one_text_is_no_list(experiment: Write, tmp_path: Path, name: str) -> None:
    """It would be taken for a list of its letters."""
    with pytest.raises(InputError) as caught:
        submit(experiment(), "debug", root=tmp_path / "root", **{name: "distill.seed=1"})  # type: ignore[arg-type]
    assert str(caught.value) == f"{name}: a list is needed, not one text; write {name}=['distill.seed=1']"
