"""Students of other encoders in one distillation: what is completed, what it depends on, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Distill, Prepare, inputs, load, upstream
from pipeline.config.cluster import Cluster
from pipeline.config.ensemble import told_apart
from pipeline.config.schema import canonical
from pipeline.launch.plan import Live, plan
from pipeline.launch.stages import graph, pin, stage_cells
from pipeline.launch.status import rows
from pipeline.report.alternatives import hyper_parameters
from pipeline.store import Store
from tests.config.conftest import refusal

PREPARE: dict[str, Any] = {
    "task": {"name": "mine", "source": {"kind": "hub", "id": "a/b"}, "text": ["text"]},
    "model": "one/bert",
    "max_length": 9,
    "seed": 3,
}
TEXT: dict[str, Any] = {"name": "text", "shots": 2}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """An experiment of one set of text with students of other encoders."""

    def write(*others: Any, method: Any = TEXT, distill: Any = None, prepare: Any = PREPARE, **top: Any) -> Path:
        base = {
            "prepare": prepare,
            "distill": {"method": method, "others": list(others)} | (distill or {}),
            "evaluate": {"protocol": {"name": "finetune"}},
        }
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"base": base, **top}, sort_keys=False))
        return path

    return write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Where the revisions of all that is named here are known."""
    root = tmp_path / "root"
    root.mkdir()
    names = ("dataset:a/b", "model:one/bert", "model:two/bert", "model:two/mpnet")
    known = {f"{name}@main": {"revision": str(number) * 40} for number, name in enumerate(names)}
    (root / "revisions.json").write_text(json.dumps(known))
    return Store(root)


def made(path: Path) -> Distill:
    (cell,) = load(path).cells
    return cell.source


def test_what_differs_from_prepare_is_written(write: Write) -> None:
    found = made(write({"model": "two/mpnet", "max_length": 12}, {"model": "two/bert"}))
    assert [(one.model.name, one.max_length, one.seed) for one in found.others] == [
        ("two/mpnet", 12, 3),
        ("two/bert", 9, 3),
    ]
    assert all(one.task == found.source.task for one in found.others)
    assert inputs(found) == (found.source, *found.others)
    assert found.encoders == ("bert", "mpnet", "bert.2")
    assert found.slug.endswith(".seed42.with-mpnet+bert.2")
    assert list(told_apart(["a", "a", "b", "a"])) == ["a", "a.2", "b", "a.3"]


def test_seeds_and_chains_keep_them(write: Write) -> None:
    path = write({"model": "two/bert"}, seeds=2)
    assert [[one.model.name for one in cell.source.others] for cell in load(path).cells] == [["two/bert"]] * 2
    parts = [{"of": {"method": TEXT, "others": [{"model": "two/bert"}]}}, {"of": {"method": {"name": "random"}}}]
    whole = made(write(method={"name": "composed", "parts": parts}))
    assert [[one.max_length for one in part.others] for part in whole.made_of] == [[9], []]
    assert {one.model.name for one in upstream(whole) if isinstance(one, Prepare)} == {"one/bert", "two/bert"}


def test_a_set_without_others_counts_as_before_there_were_any(write: Write) -> None:
    """Whether they are left out or written as none; with some it is another set, and a hyper-parameter."""
    without = load(write(distill={"others": []})).cells[0]
    assert "others" not in canonical(without.source)
    assert not any("others" in key for key in hyper_parameters(without))
    beside = load(write({"model": "two/bert"})).cells[0]
    assert [one["model"]["name"] for one in canonical(beside.source)["others"]] == ["two/bert"]
    assert hyper_parameters(beside)["distill.others.0.model.name"] == "two/bert"
    old = without.source.model_dump(mode="json")
    del old["others"]
    assert Distill.model_validate(old) == without.source


def test_jobs_wait_for_the_data_of_every_encoder(write: Write, store: Store) -> None:
    """Status has a cell of stage 1 for each, the set's array waits for both, and revisions are recorded ones."""
    experiment = pin(load(write({"model": "two/mpnet"})), store)
    (set_,) = stage_cells(experiment, store, "distill")
    assert isinstance(set_.config, Distill)
    assert [one.model.revision for one in (set_.config.source, *set_.config.others)] == ["1" * 40, "3" * 40]
    prepared = stage_cells(experiment, store, "prepare")
    assert [cell.config.slug for cell in prepared] == ["mine.bert", "mine.mpnet"]
    (node,) = (node for node in graph(experiment, store).values() if node.cell.folder == set_.folder)
    assert [name.split("/")[0] for name in node.inputs] == ["prepare", "prepare"]
    assert [row.stage for row in rows(experiment, store, {}, {})] == ["prepare", "prepare", "distill", "evaluate"]
    first, *rest = plan(experiment, store, Cluster(), Live()).arrays
    assert (first.stage, len(first.cells)) == ("prepare", 2)
    assert rest[0].after == (first.name,)
    with prepared[0].claim():
        pass
    second = plan(experiment, store, Cluster(), Live()).arrays[0]
    assert [cell.config.slug for cell in second.cells] == ["mine.mpnet"]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "ddal"}, "others: what is made by method 'ddal' is not exchanged as text"),
        ({"name": "random"}, "method: {name: text, relaxation: {name: swaps}}, or remove others"),
        (TEXT | {"relaxation": {"name": "straight_through"}}, "others: relaxation 'straight_through' of method 'text'"),
        (TEXT | {"relaxation": {"name": "mixture"}}, "others: relaxation 'mixture' of method 'text' is not exchanged"),
    ],
)
def test_only_what_is_exchanged_as_text_has_students_of_others(write: Write, method: Any, said: str) -> None:
    found = refusal(write({"model": "two/bert"}, method=method))
    assert said in found
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([{"model": "one/bert"}], "others.0.model: one/bert is that of prepare; give every encoder once"),
        ([{"model": "two/bert"}, {"model": "two/bert", "max_length": 5}], "others.1.model: two/bert is given twice"),
        ([{"model": "two/bert", "seed": 4}], "others.0.seed: not that of prepare"),
        ([{"model": "two/bert", "dev": 0.3}], "others.0.dev: not that of prepare"),
        ([{"model": {"name": "two/gpt", "head": "language"}}], "two/gpt is prepared as a language model"),
        ([{"modle": "two/bert"}], "distill.others.0.modle: unknown key (did you mean 'model'?)"),
        (["two/bert"], "distill.others.0: "),
    ],
)
def test_mistakes_are_told_where_they_were_typed(write: Write, others: list[Any], said: str) -> None:
    assert said in refusal(write(*others))


def test_a_mistake_of_prepare_is_told_once(write: Write) -> None:
    found = refusal(write({"model": "two/bert", "dve": 1}, prepare=PREPARE | {"tset": 0.1}))
    assert sorted(line.split(": ")[1] for line in found.splitlines()) == ["distill.others.0.dve", "prepare.tset"]
